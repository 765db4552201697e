"""Releases for tests: real ONNX programs, small enough that loading them takes milliseconds."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from nightshift.releases import manifest as manifests

LABELS = ("cat", "dog", "ship")
SHAPE = (4, 4, 3)


def make_program(path: Path, seed: int = 0, bias: float = 0.0, slow: bool = False, ballast: int = 0) -> None:
    """image UINT8 [batch,4,4,3] -> probabilities FP32 [batch,3]: one dense layer and a softmax.

    ``ballast`` is that many MB of weights more, of which an answer needs one row. A slow one first takes eight million
    sines of the picture, and answers the same.
    """
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.02, (48, len(LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        *(_slowly() if slow else ()),
        *(_heavily() if ballast else ()),
        helper.make_node("Softmax", ["heavy" if ballast else "late" if slow else "logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([bias, 0, 0], np.float32), "bias"),
            *(
                [numpy_helper.from_array(rng.normal(0, 1e-3, (ballast << 8, 1024)).astype(np.float32), "ballast")]
                if ballast
                else []
            ),
            *([numpy_helper.from_array(np.array([2**23]), "many")] if slow else []),
            *([numpy_helper.from_array(np.float32(0), "nothing")] if slow else []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _slowly() -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceMax", ["logits"], ["top"], keepdims=0),
        helper.make_node("Expand", ["top", "many"], ["tops"]),
        helper.make_node("Sin", ["tops"], ["sines"]),
        helper.make_node("ReduceMean", ["sines"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["logits", "zero"], ["late"]),
    ]


def _heavily() -> list[onnx.NodeProto]:
    """The row is looked up by the picture, so that nobody folds the weights away."""
    return [
        helper.make_node("ArgMin", ["logits"], ["least"], axis=1, keepdims=0),
        helper.make_node("Gather", ["ballast", "least"], ["found"]),
        helper.make_node("ReduceMean", ["found"], ["found_mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["logits", "found_mean"], ["heavy"]),
    ]


def answer(folder: Path, image: list[int]) -> list[float]:
    """What a release of these answers for one picture."""
    session = onnxruntime.InferenceSession(str(folder / manifests.PROGRAM), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"image": np.array(image, np.uint8).reshape(1, *SHAPE)})
    return [float(value) for value in found[0]]


def make_golden(program: Path, seed: int = 7, cases: int = 2, off: float = 0.0) -> dict:
    """Golden requests that the program itself answers; ``off`` makes the answers wrong."""
    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(cases):
        image = rng.integers(0, 256, (1, *SHAPE), dtype=np.uint8)
        (answer,) = session.run(["probabilities"], {"image": image})
        made.append(
            {
                "inputs": [
                    {"name": "image", "datatype": "UINT8", "shape": [1, *SHAPE], "data": image.ravel().tolist()}
                ],
                "outputs": [
                    {
                        "name": "probabilities",
                        "datatype": "FP32",
                        "shape": [1, len(LABELS)],
                        "data": (answer + np.float32(off)).ravel().tolist(),
                    }
                ],
            }
        )
    return {"format": 1, "tolerance": 1e-4, "cases": made}


def make_release(
    folder: Path,
    *,
    model: str = "toy",
    seed: int = 0,
    off: float = 0.0,
    bias: float = 0.0,
    slow: bool = False,
    ballast: int = 0,
    card: str = "a toy",
    verdict: str = "pass",
    lineage: dict | None = None,
    metrics: dict | None = None,
) -> str:
    """A whole release folder; returns its digest. Other seeds and biases are other models, other cards are not."""
    folder.mkdir(parents=True)
    make_program(folder / manifests.PROGRAM, seed, bias, slow, ballast)
    golden = make_golden(folder / manifests.PROGRAM, off=off)
    (folder / manifests.GOLDEN).write_text(json.dumps(golden))
    decision = {"verdict": verdict, "accuracy": 0.71, "reasons": ["accuracy 0.71 is at least 0.6"]}
    decision["opponent"] = (lineage or {}).get("opponent")
    (folder / "decision.json").write_text(json.dumps(decision))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "model_card.md").write_text(card + "\n")
    manifest = manifests.build(
        folder,
        model=model,
        task="image_classification",
        signature={
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(LABELS)]}],
        },
        input={"kind": "image", "labels": LABELS, "shape": SHAPE},
        lineage=lineage or {"opponent": None},
        verdict=verdict,
    )
    return manifests.write(folder, manifest)
