"""KServe's server with ONNX Runtime, REST and gRPC."""

import os
import sys
from functools import cached_property
from pathlib import Path

import kserve
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse


class Cnn(kserve.Model):
    def __init__(self, file: Path) -> None:
        super().__init__("cnn")
        self.file = file
        self.ready = True

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:  # of each process: more than one get the model pickled
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.file, options)

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None):  # noqa: ARG002
        (scores,) = self.session.run(None, {"input": payload.inputs[0].as_numpy()})
        binary = payload.from_grpc or payload.use_binary_outputs
        output = InferOutput("output", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=binary)
        return InferResponse(payload.id or "1", "cnn", [output], from_grpc=payload.from_grpc, use_binary_outputs=binary)


if __name__ == "__main__":
    ports = {"http_port": int(sys.argv[2]), "grpc_port": int(sys.argv[3])}
    server = kserve.ModelServer(**ports, workers=int(os.environ["PROCESSES"]), enable_latency_logging=False)
    server.start([Cnn(Path(sys.argv[1]) / "model.onnx")])
