"""The exported program: its answers, and what a caller sends and gets in the Open Inference Protocol's words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nightshift  # noqa: F401 - before ONNX Runtime, which would tell its maker who runs it

# isort: split
import numpy as np
import onnxruntime

from pipelines.tasks.image_classification.records import INPUT, OUTPUT

BATCH = 500
Images = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


def program(file: Path) -> Callable[[Images], Floats]:
    """The exported program: images to probabilities float32 ``[n, classes]``; one thread, so always the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def answers(x: Images) -> Floats:
        return np.concatenate([session.run([OUTPUT], {INPUT: x[i : i + BATCH]})[0] for i in range(0, len(x), BATCH)])

    return answers


def signature(shape: list[int], labels: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The tensors of the exported program; -1 is any number of images."""
    return {
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(labels)]}],
    }


def kind(shape: list[int], labels: list[str]) -> dict[str, Any]:
    """What the input is, for a form: an image of ``shape`` (height, width, channels), answered with ``labels``."""
    return {"kind": "image", "shape": shape, "labels": labels}


def case(image: Images, probabilities: Floats) -> dict[str, Any]:
    """One golden request with its answer: ``image`` ``[height, width, channels]``, ``probabilities`` ``[classes]``."""
    return {
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [1, *image.shape], "data": image.ravel().tolist()}],
        "outputs": [
            {
                "name": OUTPUT,
                "datatype": "FP32",
                "shape": [1, *probabilities.shape],
                "data": probabilities.ravel().tolist(),
            }
        ],
    }
