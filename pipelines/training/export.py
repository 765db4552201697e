"""Weights to the program that is served: one ONNX file of standard operators, the same bytes wherever it is made."""

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 20
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which we do not use


def export(served: nn.Module, example: torch.Tensor, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Writes ``served`` to ``path``; the first dimension of ``example`` (two rows or more) stays free.

    Raises:
        ValueError: the program would need more than the standard operators of this opset.
    """
    exported = torch.onnx.export(
        served.eval(),
        (example,),
        dynamo=True,
        external_data=False,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        verbose=False,
    )
    if exported is None:
        raise ValueError("torch exported no program")
    program = exported.model_proto
    # The exporter leaves stack traces there, with the absolute paths of this machine.
    del program.metadata_props[:]
    del program.graph.metadata_props[:]
    for part in (*program.graph.node, *program.graph.value_info, *program.graph.input, *program.graph.output):
        del part.metadata_props[:]
    check(program)
    path.write_bytes(program.SerializeToString(deterministic=True))


def check(program: onnx.ModelProto) -> None:
    """Raises ValueError unless the program holds all it needs: standard operators of our opset, no other file."""
    opsets = {opset.domain: opset.version for opset in program.opset_import}
    if opsets != {"": OPSET} or program.functions:
        raise ValueError(f"the exported program needs the operators {opsets}, not only those of ONNX opset {OPSET}")
    foreign = sorted({node.op_type for node in program.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ValueError(f"the exported program has operators outside the standard: {', '.join(foreign)}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in program.graph.initializer):
        raise ValueError("the exported program keeps weights in another file")
    onnx.checker.check_model(program, full_check=True)
