"""BF16, which numpy has no type for: in the endpoint its tensors are float32 arrays whose values all fit into it.

ONNX Runtime takes and gives the bits themselves, and only as its own values; those cannot hold texts that come in.
"""

import ctypes
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # who only reads samples has no ONNX Runtime, or need not wait for it
    from onnxruntime import InferenceSession, OrtValue, RunOptions

_ONNX_TYPE = 16  # TensorProto.BFLOAT16


def narrow(array: np.ndarray) -> np.ndarray:
    """The bits (uint16) of float32 numbers, rounded to the nearest, to the even one of two."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of such bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(array: np.ndarray) -> np.ndarray:
    """The numbers as BF16 has them; what is beyond its range becomes infinite."""
    return widen(narrow(array))


def run(
    session: "InferenceSession",
    names: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    inputs: Container[str],
    outputs: Container[str],
    options: "RunOptions | None" = None,
) -> list[np.ndarray]:
    """``session.run`` of a program of which these inputs and outputs are BF16."""
    from onnxruntime import OrtValue

    bits = {name: narrow(array) for name, array in arrays.items() if name in inputs}  # kept: a value points to them
    values = {name: OrtValue.ortvalue_from_numpy_with_onnx_type(of, _ONNX_TYPE) for name, of in bits.items()}
    if not any(name in outputs for name in names):
        return list(session.run(list(names), {**arrays, **values}, options))
    for name, array in arrays.items():
        if name not in bits:
            values[name] = OrtValue.ortvalue_from_numpy(array)
    found = session.run_with_ort_values(list(names), values, options)
    return [_array(value) if name in outputs else value.numpy() for name, value in zip(names, found, strict=True)]


def _array(value: "OrtValue") -> np.ndarray:
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.zeros(shape, np.float32)
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(value.data_ptr()))
    return widen(bits).reshape(shape)  # a copy: the value's memory goes with it
