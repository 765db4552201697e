"""The Open Inference Protocol v2 over gRPC: methods, messages and metadata to answers, as ``rest`` does it for HTTP.

``http2`` brings the calls; what gRPC puts into them is here: a message is a flag, four bytes of length and protobuf,
and the status stands in the trailers (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from nightshift.serving import bodies, grpc_metadata, grpc_tensors
from nightshift.serving import health_pb2 as health
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.bodies import BODY_TIMEOUT_S, MAX_BODY
from nightshift.serving.call import Call
from nightshift.serving.door import TOO_MUCH
from nightshift.serving.front import Front, failed
from nightshift.serving.hosts import Header
from nightshift.serving.http2 import Stream
from nightshift.serving.request_ids import request_id
from nightshift.serving.tensors import MANY, RequestError, ask_again

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
_CALLS = 1000  # under way on all connections
_SMALL, _SMALL_S = 64 << 10, 2.0  # bytes and seconds of a message that needs no key, which is a name or two
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length
_TOO_MUCH = grpc_metadata.refusal(ask_again(TOO_MUCH))
_HEADERS = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity, deflate, gzip")]

log = logging.getLogger("nightshift.serving")
Work = Callable[[Call, Any, Header], Awaitable[Any]]


class _Method(NamedTuple):
    """``parse`` is what makes a request of the message named ``request``; it raises protobuf's DecodeError."""

    verb: str
    request: str
    parse: Callable[[memoryview], Any]
    work: Work


class Grpc:
    """Translates; what decides is what decides for REST: the guard, the engine, the admission, and who watches."""

    def __init__(self, front: Front):
        self.front = front
        self.engine, self.guard, self.inference = front.engine, front.guard, front.inference
        self._under_way = 0  # calls, from their headers until their answers are handed over
        ours: dict[str, tuple[str, Work]] = {
            "ServerLive": ("live", self._server_live),
            "ServerReady": ("ready", self._server_ready),
            "ServerMetadata": ("server", self._server_metadata),
            "ModelReady": ("ready", self._model_ready),
            "ModelMetadata": ("metadata", self._model_metadata),
            "ModelConfig": ("config", self._model_config),
            "ModelStatistics": ("stats", self._model_statistics),
            "ModelInfer": ("infer", self._model_infer),
            "RepositoryIndex": ("index", self._repository_index),
            "RepositoryModelLoad": ("load", self._repository_change),
            "RepositoryModelUnload": ("unload", self._repository_change),
        }
        self._methods = {
            f"/{SERVICE}/{name}": _Method(verb, f"{name}Request", getattr(messages, f"{name}Request").FromString, work)
            for name, (verb, work) in ours.items()
        }
        infer = f"/{SERVICE}/ModelInfer"
        self._methods[infer] = self._methods[infer]._replace(parse=grpc_tensors.Parser().parse)
        check = health.HealthCheckRequest
        self._methods[f"/{HEALTH}/Check"] = _Method("ready", "HealthCheckRequest", check.FromString, self._check)

    def __call__(self, stream: Stream) -> Coroutine[Any, Any, None] | None:
        """Answer one call, or refuse it at the door. What it gives never raises."""
        method = self._methods.get(stream.path)
        if method and method.verb == "infer" and self.front.door.refuses("grpc"):
            identity = (b"x-request-id", request_id(stream.header("x-request-id")).encode())
            stream.answer(_HEADERS, b"", [*_TOO_MUCH, identity])
            return None
        return self._call(method, stream)

    async def _call(self, method: _Method | None, stream: Stream) -> None:
        header = stream.header
        call = Call(request_id(header("x-request-id")), "grpc", method.verb if method else "", time.perf_counter())
        self._under_way += 1
        try:
            data, refused = b"", None
            try:
                if self._under_way > _CALLS:
                    raise ask_again(f"{_CALLS} calls are under way already; ask again")
                if method is None:
                    raise RequestError(501, f"there is no method {stream.path[:200]!r} here")
                data = await self._answer(method, call, stream)
                call.status, call.sent = 200, len(data)
                data = b"\0" + len(data).to_bytes(4, "big") + data
            except RequestError as error:
                refused = error.with_traceback(None)  # whose frames would hold what was read, and be held by it
            except Exception as error:
                log.exception("request %s failed", call.id)
                refused = failed(call, error)
            if refused:
                call.status, call.error = refused.status, refused.message[: grpc_metadata.LONGEST]
            if not stream.answer(_HEADERS, data, grpc_metadata.trailers(call, refused)):
                call.status, call.error = 499, "the caller did not wait for the answer"
        finally:
            self._under_way -= 1
            self.front.end(call)

    async def _answer(self, method: _Method, call: Call, stream: Stream) -> bytes:
        """The answer's message."""
        header = stream.header
        if not (header("content-type") or "").startswith("application/grpc"):
            raise RequestError(501, "only gRPC is spoken here")
        if method.verb == "infer":  # before a big message is read
            self.guard.knock(call, method.verb, header)
        data = await self._message(call, stream)
        try:
            request = method.parse(data)
        except DecodeError:
            raise RequestError(400, f"the message is no {method.request}") from None
        del data  # a big message is not kept while its answer is waited for
        found = await method.work(call, request, header)
        return found if isinstance(found, bytes) else found.SerializeToString()

    async def _message(self, call: Call, stream: Stream) -> memoryview:
        """The one message of a call, which has room as it comes. RequestError 400, 408, 413, 415 or 503."""
        room, most = self.front.room, MAX_BODY if call.verb == "infer" else _SMALL
        patience = BODY_TIMEOUT_S if call.verb == "infer" else _SMALL_S
        data: bytes | bytearray = b""
        size: int | None = None
        if not stream.ended:
            stream.until = time.monotonic() + patience
        try:
            while size is None or len(data) < _PREFIX + size:
                piece = await stream
                if not piece:
                    raise RequestError(400, "the call ended without a message")
                room.take(call, len(piece))
                if not data:
                    data = piece
                else:  # one buffer: to add to bytes would copy all that came, each time
                    data = data if isinstance(data, bytearray) else bytearray(data)
                    data += piece
                if size is None and len(data) >= _PREFIX:
                    size = int.from_bytes(data[1:_PREFIX], "big")
                    if size > most:
                        raise RequestError(413, f"the message is larger than max ({size} against {most} bytes)")
        except TimeoutError:
            raise RequestError(408, f"the message did not arrive within {patience:.0f} s") from None
        except ConnectionError:
            raise RequestError(400, "the caller hung up") from None
        call.received = size
        message = memoryview(data)[_PREFIX : _PREFIX + size]
        if not data[0]:
            return message
        encoding = stream.header("grpc-encoding") or "nothing"
        return memoryview(await bodies.inflated(bytes(message), encoding, call, room, most))

    async def _server_live(self, _call: Call, _request: Any, _header: Header) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _call: Call, _request: Any, _header: Header) -> Any:
        return messages.ServerReadyResponse(ready=await self.front.is_ready())

    async def _check(self, call: Call, request: Any, header: Header) -> Any:
        """gRPC's own health check, of the server, or of a model by its name for who may ask it."""
        ready = True
        if request.service in ("", SERVICE):
            ready = await self.front.is_ready()
        else:
            self.front.find(call, request.service, None, header)
        states = health.HealthCheckResponse
        return health.HealthCheckResponse(status=states.SERVING if ready else states.NOT_SERVING)

    async def _server_metadata(self, call: Call, _request: Any, header: Header) -> Any:
        return messages.ServerMetadataResponse(**self.front.server(call, header))

    async def _model_ready(self, call: Call, request: Any, header: Header) -> Any:
        with contextlib.suppress(RequestError):
            call.model, call.role = self.engine.find(request.name, request.version or None)
        self.front.enter(call, header, request.name)
        return messages.ModelReadyResponse(ready=call.model is not None)

    async def _model_metadata(self, call: Call, request: Any, header: Header) -> Any:
        model = self.front.find(call, request.name, request.version or None, header)
        about = model.metadata()
        del about["parameters"]  # of REST's only: how a person's input becomes the tensor
        return messages.ModelMetadataResponse(**about)

    async def _model_config(self, call: Call, request: Any, header: Header) -> Any:
        model = self.front.find(call, request.name, request.version or None, header)
        return messages.ModelConfigResponse(config=model.config())

    async def _model_statistics(self, call: Call, request: Any, header: Header) -> Any:
        found = await self.front.statistics_of(call, request.name or None, request.version or None, header)
        return messages.ModelStatisticsResponse(model_stats=found)

    async def _model_infer(self, call: Call, asked: grpc_tensors.Asked, header: Header) -> bytes:
        request = asked.request
        model = self.front.find(call, request.model_name, request.model_version or None, header)
        self.inference.admit(call)
        if call.received > bodies.LONG or header("grpc-encoding") not in (None, "identity"):
            form, arrays = await asyncio.to_thread(grpc_tensors.read, asked, model)
        else:
            form, arrays = grpc_tensors.read(asked, model)
        timeouts = filter(None, (form.timeout, grpc_metadata.deadline(header("grpc-timeout"))))
        results = await self.inference.run(call, arrays, list(form.wanted), min(timeouts, default=0.0))
        if grpc_tensors.writes(form, results) > MANY:
            return await asyncio.to_thread(grpc_tensors.write, asked, form, model, results)
        return grpc_tensors.write(asked, form, model, results)

    async def _repository_index(self, call: Call, _request: Any, header: Header) -> Any:
        return messages.RepositoryIndexResponse(models=self.front.index(call, header))

    async def _repository_change(self, call: Call, _request: Any, header: Header) -> Any:
        raise self.front.refuse_change(call, header)
