"""LitServe with ONNX Runtime."""

import os
import sys
from pathlib import Path

import litserve
import numpy as np
import onnxruntime

folder, port, processes = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ["PROCESSES"])


class Cnn(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options)

    def decode_request(self, request: dict) -> np.ndarray:
        return np.asarray(request["data"], np.float32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input": images})[0]

    def encode_response(self, scores: np.ndarray) -> list:
        return scores.tolist()


if __name__ == "__main__":
    server = litserve.LitServer(Cnn(), accelerator="cpu", workers_per_device=processes)
    where = {"host": "127.0.0.1", "port": port, "num_api_servers": processes}
    server.run(**where, generate_client_file=False, log_level="warning")
