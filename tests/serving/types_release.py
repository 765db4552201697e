"""A release whose program gives back every tensor that it is given, one of each datatype."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from nightshift.releases import manifest as manifests

ONNX = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


HALVES = {"BF16": TensorProto.BFLOAT16, "FP32": TensorProto.FLOAT}  # ONNX Runtime has BF16 out of no texts


def make_types_release(folder: Path, model: str = "types", kinds: Mapping[str, int] = ONNX) -> str:
    """The digest of a release with inputs ``in_<DATATYPE>`` and outputs ``out_<DATATYPE>``, all [batch, 2]."""
    folder.mkdir(parents=True)
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in kinds]
    inputs = [helper.make_tensor_value_info(f"in_{name}", kind, ["batch", 2]) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(f"out_{name}", kind, ["batch", 2]) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "types", inputs, outputs)
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(program)
    (folder / manifests.PROGRAM).write_bytes(program.SerializeToString())

    def tensors(side: str) -> list[dict]:
        return [{"name": f"{side}_{name}", "datatype": name, "shape": [1, 2], "data": _data(name)} for name in kinds]

    cases = [{"inputs": tensors("in"), "outputs": tensors("out")}]
    (folder / manifests.GOLDEN).write_text(json.dumps({"format": 1, "tolerance": 1e-4, "cases": cases}))
    manifest = manifests.build(
        folder,
        model=model,
        task="tensors",
        signature={
            side + "puts": [{"name": f"{side}_{name}", "datatype": name, "shape": [-1, 2]} for name in kinds]
            for side in ("in", "out")
        },
        input={"kind": "tensor"},
        lineage={"opponent": None},
        verdict="pass",
    )
    return manifests.write(folder, manifest)


def _data(datatype: str) -> list:
    if datatype == "BYTES":
        return ["a", "ß"]
    return np.array([0, 1]).astype(bool).tolist() if datatype == "BOOL" else [0, 1]
