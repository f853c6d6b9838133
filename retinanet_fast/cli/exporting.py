"""``retinanet-fast export``: its flags, and what it does."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="RUN|FILE", help="a run's folder or a checkpoint")
    parser.add_argument(
        "--format",
        choices=("torch", "aoti", "onnx"),
        required=True,
        help="torch: a program of torch.export; aoti: a compiled package for Python and C++; onnx: standard operators",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--size", default="dynamic", metavar="HxW", help="the images' size; dynamic (default): any"
    )
    parser.add_argument("--batch", type=_positive, metavar="N", help="images at a time (default: any number)")
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="PICTURE",
        help="pictures to compare detections on",
    )
    parser.add_argument("--device", default="cpu", help="what aoti compiles for: cpu (default), cuda, cuda:1")


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {word}")
    return number


def export_command(options: argparse.Namespace) -> None:
    from retinanet_fast.engine import checkpoint as checkpoints
    from retinanet_fast.engine.build_model import choose_device
    from retinanet_fast.engine.exporting import ExportOptions, export_checked, parse_size
    from retinanet_fast.engine.prediction.predict import restore_model
    from retinanet_fast.engine.prediction.sources import list_pictures

    wanted = ExportOptions(options.format, parse_size(options.size), options.batch)
    pictures = list(list_pictures(options.check)) if options.check else []
    state = checkpoints.load(options.checkpoint)
    model = restore_model(state, options.checkpoint, choose_device(options.device))
    agreement = export_checked(model, options.out, wanted, pictures)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; {agreement}")
