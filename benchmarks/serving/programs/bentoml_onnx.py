"""BentoML with ONNX Runtime; `bentoml serve` imports it, so all comes from the environment."""

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=int(os.environ["PROCESSES"]))
class Cnn:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(Path(os.environ["MODEL_FOLDER"]) / "model.onnx", options)

    @bentoml.api
    def predict(self, data: np.ndarray) -> list[list[float]]:
        return self.session.run(None, {"input": np.asarray(data, np.float32)})[0].tolist()
