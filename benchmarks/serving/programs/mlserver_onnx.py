"""MLServer's runtime with ONNX Runtime; `mlserver start` finds it through the settings that the benchmark writes."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Cnn(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        (scores,) = self.session.run(None, {"input": images})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", scores)])
