"""A release that takes as long as it is told: a row goes through the same large layer again and again."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from nightshift.releases import manifest as manifests

WIDTH = 1024
ROW = {"name": "row", "datatype": "FP32", "shape": [1, 4], "data": [0.5, 0.25, 0.125, 1.0]}


def make_slow_release(folder: Path, *, layers: int, model: str = "slow") -> None:
    """row FP32 [batch,4] -> sum FP32 [batch,1]; a layer costs a million multiplications a row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    nodes = [helper.make_node("MatMul", ["row", "first"], ["x0"])]
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [f"x{layer}", "wide"], [f"y{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"y{layer}"], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"x{layers}"], ["mean"], axes=[1], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(rng.normal(size=(4, WIDTH)).astype(np.float32), "first"),
            numpy_helper.from_array(rng.normal(0, 0.03, (WIDTH, WIDTH)).astype(np.float32), "wide"),
        ],
    )
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(program)
    (folder / manifests.PROGRAM).write_bytes(program.SerializeToString())
    session = onnxruntime.InferenceSession(str(folder / manifests.PROGRAM), providers=["CPUExecutionProvider"])
    (mean,) = session.run(None, {"row": np.array(ROW["data"], np.float32).reshape(1, 4)})
    output = {"name": "mean", "datatype": "FP32", "shape": [1, 1], "data": mean.ravel().tolist()}
    case = {"inputs": [ROW], "outputs": [output]}
    (folder / manifests.GOLDEN).write_text(json.dumps({"format": 1, "tolerance": 1e-3, "cases": [case, case]}))
    manifest = manifests.build(
        folder,
        model=model,
        task="tensors",
        signature={
            "inputs": [{"name": "row", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "mean", "datatype": "FP32", "shape": [-1, 1]}],
        },
        input={"kind": "tensor"},
        lineage={"opponent": None},
        verdict="pass",
    )
    manifests.write(folder, manifest)
