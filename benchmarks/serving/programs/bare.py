"""The limit: the same HTTP servers and parsers as Nightshift's endpoint, one call of ONNX Runtime, and nothing else."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
import simdjson
import uvloop

from nightshift.serving import http1, http2
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.exchange import Answer, Request
from nightshift.serving.listener import Listener

folder, port, grpc_port, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(os.environ["PROCESSES"])
for _ in range(processes - 1):
    if os.fork() == 0:
        break
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
parser = simdjson.Parser()


def from_json(body: bytes) -> np.ndarray:
    document = parser.parse(body)
    tensor = document["inputs"][0]
    values = np.frombuffer(tensor["data"].as_buffer(of_type="d"), np.float64).astype(np.float32)
    shape = tensor["shape"].as_list()
    del tensor, document  # else the parser cannot be used again
    return values.reshape(shape)


async def answer(request: Request) -> None:
    body = await request.body
    length = request.header("inference-header-content-length")
    if length is None:
        array = from_json(body)
        (result,) = session.run(None, {"input": array})
        output = {"name": "output", "datatype": "FP32", "shape": result.shape, "data": result.ravel()}
        text = orjson.dumps({"model_name": "cnn", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        request.answer(Answer(200, text, [("content-type", "application/json")]))
        return
    head = orjson.loads(body[: int(length)])
    array = np.frombuffer(body, np.float32, offset=int(length)).reshape(head["inputs"][0]["shape"])
    (result,) = session.run(None, {"input": array})
    values = result.tobytes()
    output = {"name": "output", "datatype": "FP32", "shape": result.shape}
    text = orjson.dumps({"model_name": "cnn", "outputs": [{**output, "parameters": {"binary_data_size": len(values)}}]})
    headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", str(len(text)))]
    request.answer(Answer(200, text + values, headers))


async def answer_call(stream: http2.Stream) -> None:
    data = b""
    while piece := await stream:
        data += piece
    request = messages.ModelInferRequest.FromString(data[5:])
    array = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
    (result,) = session.run(None, {"input": array})
    found = messages.ModelInferResponse(model_name="cnn", raw_output_contents=[result.tobytes()])
    found.outputs.add(name="output", datatype="FP32", shape=result.shape)
    text = found.SerializeToString()
    headers, trailers = [(b"content-type", b"application/grpc")], [(b"grpc-status", b"0")]
    stream.answer(headers, b"\0" + len(text).to_bytes(4, "big") + text, trailers)


async def main() -> None:
    http, rpc = partial(http1.Connection, answer), partial(http2.Connection, answer_call)
    await Listener(http, most=1000).listen("127.0.0.1", port, None, shared=processes > 1)
    await Listener(rpc, most=1000).listen("127.0.0.1", grpc_port, None, shared=processes > 1)
    await asyncio.Event().wait()


uvloop.run(main())
