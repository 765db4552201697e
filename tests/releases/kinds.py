"""Releases of the other input kinds for tests: texts, rows of a tensor per column or of one for all, tensors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from nightshift.releases import manifest as manifests

_ELEMENTS = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}
_DTYPES = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}
MOODS = ("bad", "good")
WORDS = ("awful", "fine", "lovely")
COLORS = ("blue", "green", "red")
HOUSE = (
    {"name": "rooms", "kind": "number", "minimum": 1, "maximum": 9},
    {"name": "area", "kind": "number", "minimum": 20.5},
    {"name": "color", "kind": "category", "categories": COLORS},
)


def text_release(folder: Path, model: str = "mood") -> str:
    """Texts, split at spaces by the graph; the known words are counted and weighed."""
    nodes = [
        helper.make_node("StringSplit", ["text"], ["words", "lengths"], delimiter=" "),
        helper.make_node(
            "TfIdfVectorizer",
            ["words"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=[0],
            ngram_indexes=list(range(len(WORDS))),
            pool_strings=list(WORDS),
        ),
        helper.make_node("Gemm", ["counts", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = np.array([[3, 0], [0, 1], [0, 3]], np.float32)
    return _release(
        folder,
        model,
        nodes,
        {"weights": weights},
        [_tensor("text", "BYTES", -1)],
        [_tensor("probabilities", "FP32", -1, len(MOODS))],
        {"kind": "text", "labels": MOODS},
        {"text": np.array(["fine", "an awful day"], np.object_)},
    )


def row_release(folder: Path, model: str = "price") -> str:
    """A house's price from a tensor per column: whole rooms, an area, a color that the graph looks up."""
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["color"],
            ["paint"],
            domain="ai.onnx.ml",
            keys_strings=list(COLORS),
            values_floats=[1.0, 2.0, 3.0],
        ),
        helper.make_node("Cast", ["rooms"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Clip", ["area", "least", "most"], ["within"]),  # beyond, a price would not be finite
        helper.make_node("Concat", ["count", "within", "paint"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "weights"], ["price"]),
    ]
    return _release(
        folder,
        model,
        nodes,
        {"weights": np.array([[100], [10], [1]], np.float32), "least": np.float32(-1e6), "most": np.float32(1e6)},
        [_tensor("rooms", "INT64", -1, 1), _tensor("area", "FP32", -1, 1), _tensor("color", "BYTES", -1, 1)],
        [_tensor("price", "FP32", -1, 1)],
        {"kind": "row", "columns": HOUSE},
        {"rooms": np.array([[3]]), "area": np.array([[40.5]], np.float32), "color": np.array([["red"]], np.object_)},
    )


def packed_release(folder: Path, model: str = "choice", labels: Sequence[str] = ("buy", "wait", "sell")) -> str:
    """The same columns in one tensor of numbers, in which a color is its place in the list."""
    nodes = [
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return _release(
        folder,
        model,
        nodes,
        {"weights": np.array([[0.5, 0, 0], [0, 0.01, 0], [0, 0, 1]], np.float32)},
        [_tensor("row", "FP32", -1, 3)],
        [_tensor("probabilities", "FP32", -1, 3)],
        {"kind": "row", "columns": HOUSE, "labels": labels},
        {"row": np.array([[3, 40.5, 2]], np.float32)},
    )


def tensor_release(folder: Path, model: str = "sum") -> str:
    """Two vectors and their sum: nothing that a person would type."""
    return _release(
        folder,
        model,
        [helper.make_node("Add", ["a", "b"], ["c"])],
        {},
        [_tensor("a", "FP32", -1, 2), _tensor("b", "FP32", -1, 2)],
        [_tensor("c", "FP32", -1, 2)],
        {"kind": "tensor"},
        {"a": np.array([[1, 2]], np.float32), "b": np.array([[3, 4]], np.float32)},
    )


def vast_release(folder: Path, model: str = "vast") -> str:
    """As many zeros as are asked for: more than a machine has memory for, if need be."""
    return _release(
        folder,
        model,
        [helper.make_node("ConstantOfShape", ["count"], ["zeros"])],
        {},
        [_tensor("count", "INT64", 1)],
        [_tensor("zeros", "FP32", -1)],
        {"kind": "tensor"},
        {"count": np.array([3])},
    )


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _release(
    folder: Path,
    model: str,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
    input: dict[str, Any],
    asked: dict[str, np.ndarray],
) -> str:
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        nodes,
        model,
        *[
            [
                helper.make_tensor_value_info(
                    each["name"], _ELEMENTS[each["datatype"]], ["batch" if size < 0 else size for size in each["shape"]]
                )
                for each in tensors
            ]
            for tensors in (inputs, outputs)
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    program = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(program)
    (folder / manifests.PROGRAM).write_bytes(program.SerializeToString())
    session = onnxruntime.InferenceSession(folder / manifests.PROGRAM, providers=["CPUExecutionProvider"])
    answered = session.run([each["name"] for each in outputs], asked)
    case = {
        "inputs": [_filled(each, asked[each["name"]]) for each in inputs],
        "outputs": [_filled(each, array) for each, array in zip(outputs, answered, strict=True)],
    }
    (folder / manifests.GOLDEN).write_text(json.dumps({"format": 1, "tolerance": 1e-4, "cases": [case]}))
    manifest = manifests.build(
        folder,
        model=model,
        task=f"{input['kind']}_test",
        signature={"inputs": inputs, "outputs": outputs},
        input=input,
        lineage={},
        verdict="pass",
    )
    return manifests.write(folder, manifest)


def _filled(tensor: dict[str, Any], array: np.ndarray) -> dict[str, Any]:
    values = array.astype(_DTYPES[tensor["datatype"]]).ravel().tolist()
    return {**tensor, "shape": list(array.shape), "data": values}
