"""What the ONNX translations share: constants of a stated type, and sizes that are numbers or values of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op

# A value of the graph that is being built. (Its library gives no useful static type.)
Value = Any

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
_NUMPY: dict[int, Any] = {FLOAT: np.float32, DOUBLE: np.float64, INT64: np.int64}


def constant(value: Any, dtype: int) -> Value:
    """A number or an array of the graph; a bare Python number would become int64 or float32."""
    return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype=_NUMPY[dtype])))


def integers(values: Any) -> Value:
    """An int64 ``[N]`` from numbers and scalars of the graph (one, or a list), as ``SymInt`` arguments come."""
    parts: list[Any] = values if isinstance(values, list) else [values]
    tensors: list[Value] = [
        constant([part], INT64) if isinstance(part, int) else op.Reshape(part, constant([1], INT64))
        for part in parts
    ]
    return tensors[0] if len(tensors) == 1 else op.Concat(*tensors, axis=0)


def cast(value: Value, dtype: int) -> Value:
    return op.Cast(value, to=dtype)


def unsqueeze(value: Value, axis: int) -> Value:
    return op.Unsqueeze(value, constant([axis], INT64))


def columns(rows: Value, count: int = 4) -> tuple[Value, ...]:
    """The columns ``[..., 1]`` of ``[..., count]``."""
    return tuple(op.Split(rows, num_outputs=count, axis=-1))


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """As in ONNX: 0 keeps a dimension, -1 takes the rest."""
    return op.Reshape(value, constant(list(shape), INT64))


def take_rows(rows: Value, index: Value) -> Value:
    """``rows[b, index[b, n]]``: ``[B, N, ...]`` and ``[B, M]`` to ``[B, M, ...]``."""
    return op.GatherND(rows, unsqueeze(index, -1), batch_dims=1)
