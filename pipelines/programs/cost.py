"""What an exported program costs, counted and not timed: the same on every machine."""

from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx.tools import update_model_dims


def cost(program: Path) -> dict[str, int]:
    """``operations`` (multiply-adds of one item), ``parameters`` (numbers in its weights) and ``bytes`` of the file.

    Convolutions and matrix products are counted, which is where the time of a network goes; the rest is not.
    """
    model = onnx.load(program)
    parameters = sum(prod(weight.dims) for weight in model.graph.initializer)
    # Shapes are of one item: the free dimensions are the batch.
    sizes = {
        tensor.name: [dim.dim_value or 1 for dim in tensor.type.tensor_type.shape.dim]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    inputs = {tensor.name: sizes[tensor.name] for tensor in model.graph.input}
    outputs = {tensor.name: sizes[tensor.name] for tensor in model.graph.output}
    del model.graph.value_info[:]
    fixed = onnx.shape_inference.infer_shapes(update_model_dims.update_inputs_outputs_dims(model, inputs, outputs))
    shapes = {weight.name: list(weight.dims) for weight in fixed.graph.initializer}
    for tensor in (*fixed.graph.value_info, *fixed.graph.input, *fixed.graph.output):
        shapes[tensor.name] = [dim.dim_value or 1 for dim in tensor.type.tensor_type.shape.dim]
    operations = sum(_multiply_adds(node, shapes) for node in fixed.graph.node)
    return {"operations": operations, "parameters": parameters, "bytes": program.stat().st_size}


def _multiply_adds(node: Any, shapes: dict[str, list[int]]) -> int:
    out = shapes.get(node.output[0], [])
    if node.op_type == "Conv":  # weights [out, in / groups, *kernel]
        return prod(out) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":  # weights [in, out / groups, *kernel]
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        left = shapes[node.input[0]]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(out) * (left[0] if transposed else left[-1])
    return 0
