"""KServe's server with ONNX Runtime, REST and gRPC."""

import sys
from pathlib import Path

import kserve
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse

folder, port, grpc_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Cnn(kserve.Model):
    def __init__(self) -> None:
        super().__init__("cnn")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self.ready = True

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None):  # noqa: ARG002
        (scores,) = self.session.run(None, {"input": payload.inputs[0].as_numpy()})
        binary = payload.from_grpc or payload.use_binary_outputs
        output = InferOutput("output", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=binary)
        return InferResponse(payload.id or "1", "cnn", [output], from_grpc=payload.from_grpc, use_binary_outputs=binary)


sys.argv = sys.argv[:1]
kserve.ModelServer(http_port=port, grpc_port=grpc_port, workers=1, enable_latency_logging=False).start([Cnn()])
