"""Writes a detector to a file of one of three formats, and runs such a file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from retinanet_fast.export.onnx_table import onnx_translations
from retinanet_fast.models import BatchDetector, RetinaNet
from retinanet_fast.structures import Detections

__all__ = ["FORMATS", "export_model", "load_exported"]

FORMATS = ("torch", "aoti", "onnx")
OUTPUTS = ["boxes", "scores", "labels", "counts"]
COARSEST_STRIDE = 128  # of P7
# Of the images that a program with dynamic sizes is traced with. All differ, none is 1: no two are taken for one.
EXAMPLE = (2, 224, 288)


def export_model(
    model: RetinaNet,
    file: Path | str,
    format: str,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
) -> None:
    """Write the evaluation of a ``RetinaNet`` to ``file``: images ``[B, 3, H, W]`` in, :class:`Detections` out.

    The images are float32 RGB in 0 to 1, of one size; normalising, resizing and padding are in the file. Its outputs
    are ``boxes`` ``[B, D, 4]`` (xyxy in the images' pixels), ``scores`` ``[B, D]``, ``labels`` ``[B, D]`` and
    ``counts`` ``[B]``, as of ``ops.retinanet_detect``. The model is left in evaluation mode.

    Args:
        model: on the device that the file is for; ONNX has none.
        format: "torch", a program of ``torch.export``, which needs this package where it is loaded; "aoti", a package
            of AOTInductor, compiled for this processor or GPU, which needs the library of the ops
            (:func:`retinanet_fast.ops_library`) and no Python; "onnx", of standard operators (opset 18), which needs
            neither.
        size: (height, width), or None for any.
        batch: B, or None for any.

    Raises:
        ValueError: another format, a name without ``.pt2`` for torch's formats, a model of small images without a size,
            or settings that ONNX cannot express.
        ImportError: "onnx" without onnx and onnxscript.
    """
    if format not in FORMATS:
        raise ValueError(f"export_model: expected a format of {', '.join(FORMATS)}, got {format!r}")
    if format != "onnx" and Path(file).suffix != ".pt2":
        raise ValueError(f"export_model: expected a file whose name ends in .pt2, as torch does, got {file}")
    with _quiet():
        program = trace(model, size, batch)
        if format == "torch":
            torch.export.save(program, file)
        elif format == "aoti":
            torch._inductor.aoti_compile_and_package(program, package_path=str(file))
        else:
            _write_onnx(program, file)


def trace(model: RetinaNet, size: tuple[int, int] | None, batch: int | None) -> ExportedProgram:
    """The evaluation as a program of ``torch.export``."""
    if size is None:
        _check_levels(model)
    height, width = size or EXAMPLE[1:]
    device = next(model.parameters()).device
    images = torch.zeros(batch or EXAMPLE[0], 3, height, width, device=device)
    dynamic: dict[int, Any] = {} if batch else {0: Dim.DYNAMIC}
    if size is None:
        dynamic |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(BatchDetector(model.eval()), (images,), dynamic_shapes=(dynamic,))


def _check_levels(model: RetinaNet) -> None:
    """A level of one cell is a program of its own, which does not hold for other sizes."""
    transform = model.transform
    shorter = transform.fixed_size[1] if transform.fixed_size is not None else transform.min_size[-1]
    padded = -(-shorter // transform.size_divisible) * transform.size_divisible
    if padded <= COARSEST_STRIDE:
        raise ValueError(
            f"export_model: expected a model whose levels have several cells, and this one resizes images to {shorter} "
            f"pixels, of which P7 has one in {COARSEST_STRIDE}; give a size"
        )


def load_exported(file: Path | str, format: str) -> Callable[[Tensor], Detections]:
    """A function of images ``[B, 3, H, W]`` that runs a file of :func:`export_model`.

    Raises:
        ValueError: another format.
        ImportError: "onnx" without onnxruntime.
    """
    if format == "torch":
        module = torch.export.load(file).module()
        return lambda images: module(images)
    if format == "aoti":
        package = torch._inductor.aoti_load_package(str(file))
        return lambda images: package(
            images.contiguous()
        )  # it reads the memory without a look at the strides
    if format == "onnx":
        return _onnx_runtime(file)
    raise ValueError(f"load_exported: expected a format of {', '.join(FORMATS)}, got {format!r}")


def _write_onnx(program: ExportedProgram, file: Path | str) -> None:
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=18,
        custom_translation_table=onnx_translations(),
        input_names=["images"],
        output_names=OUTPUTS,
        verbose=False,
    )
    assert onnx_program is not None
    onnx_program.save(file, external_data=False)


def _onnx_runtime(file: Path | str) -> Callable[[Tensor], Detections]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Detections:
        outputs = session.run(OUTPUTS, {"images": images.cpu().numpy()})
        return Detections(*map(torch.from_numpy, outputs)).to(images.device)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on its own deprecations, and on operators of libraries that are not installed."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="No complete tensor found")  # of the anchors, a view
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
