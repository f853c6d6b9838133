"""The calls that the report counts and predicts: workloads of the benchmarks."""

# Workload -> images that are counted of its FULL_BATCH; None: all that it has.
WORKLOADS: dict[str, int | None] = {
    "focal/int/fp32/sum/16-images": 1,
    "focal/int/bf16/sum/16-images": 1,
    "match_anchors/20": None,
    "match_anchors/100": None,
    "match_anchors/1000": None,
    "retinanet_loss/16x800/bf16/channels_last/80": 4,
    "retinanet_loss/16x800/bf16/channels_last/90": 4,
    "retinanet_loss/16x800/bf16/channels_last": 4,
    "retinanet_loss/16x800/bf16/nchw/80": 4,
    "retinanet_loss/16x800/bf16/nchw/90": 4,
    "retinanet_loss/16x800/bf16/nchw/91": 4,
    **{f"nms/{kind}/{n}": None for kind in ("uniform", "clustered") for n in (1_000, 5_000, 20_000, 200_000)},
    "batched_nms/80/20000": None,
    **{
        f"retinanet_detect/{images}x800/bf16/channels_last{scores}": counted
        for images, counted in ((1, None), (16, 1))
        for scores in ("", "/untrained", "/equal")
    },
}
FULL_BATCH = 16
