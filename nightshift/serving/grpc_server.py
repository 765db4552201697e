"""The Open Inference Protocol v2 over gRPC: methods, messages and metadata to answers, as ``rest`` does it for HTTP.

h2corn speaks HTTP/2 (in Rust, so that no thread of Python hands messages to another); what gRPC puts into it is here: a
message is a flag, four bytes of length and protobuf, and the status stands in the trailers
(https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h2corn
import h2corn._lib as h2corn_lib
from google.protobuf.message import DecodeError

from nightshift.serving import bodies, grpc_metadata, grpc_tensors
from nightshift.serving import health_pb2 as health
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.bodies import BODY_TIMEOUT_S, MAX_BODY
from nightshift.serving.call import Call
from nightshift.serving.door import TOO_MUCH
from nightshift.serving.front import Front, Header, failed
from nightshift.serving.request_ids import request_id
from nightshift.serving.tensors import MANY, RequestError, ask_again

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
_STREAMS = 100  # calls under way on one connection
_CALLS = 1000  # and on all
_HELD = 4 * _CALLS  # with those that h2corn has not handed on yet; what it refuses beyond that, nobody here can count
_HEAD = 64 << 10  # bytes of a call's headers
_WINDOW = 1 << 20  # bytes that a connection may send before they are asked for
_UNTAKEN_S = 30.0  # for an answer to be taken
_IDLE_S = 75.0  # that a connection may have no call, also a first one; a client's library makes a new one unnoticed
_GRACE_S = 30.0  # for what is under way when the endpoint stops
_SMALL, _SMALL_S = 64 << 10, 2.0  # bytes and seconds of a message that needs no key, which is a name or two
_LONGEST = 1000  # characters of a fault: some quote what the client sent, and its library takes 8 KiB of trailers
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length
_HEADERS = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity, deflate, gzip")]

log = logging.getLogger("nightshift.serving")
Work = Callable[[Call, Any, Header], Awaitable[Any]]


class _Method(NamedTuple):
    """``request`` is the message's class."""

    verb: str
    request: Any
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
            f"/{SERVICE}/{name}": _Method(verb, getattr(messages, f"{name}Request"), work)
            for name, (verb, work) in ours.items()
        }
        self._methods[f"/{HEALTH}/Check"] = _Method("ready", health.HealthCheckRequest, self._check)

    async def __call__(self, scope: h2corn.Scope, receive: h2corn.Receive, send: h2corn.Send) -> None:
        """One call, as an ASGI application. Never raises."""
        if scope["type"] != "http":
            return
        self._under_way += 1
        try:
            await self._call(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _call(self, scope: h2corn.HTTPScope, receive: h2corn.Receive, send: h2corn.Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = self._methods.get(scope["path"])
        call = Call(request_id(headers.get("x-request-id")), "grpc", method.verb if method else "", time.perf_counter())
        data = b""
        more: Sequence[tuple[str, str]] = ()
        sent_away = call.verb == "infer" and self.front.door.refuses("grpc")
        try:
            if sent_away:
                raise ask_again(TOO_MUCH)
            if self._under_way > _CALLS:
                raise ask_again(f"{_CALLS} calls are under way already; ask again")
            if method is None:
                raise RequestError(501, f"there is no method {scope['path'][:200]!r} here")
            found = await self._answer(method, call, headers.get, receive)
            data = found.SerializeToString()
            call.status, call.sent = 200, len(data)
            data = b"\0" + len(data).to_bytes(4, "big") + data
        except RequestError as error:
            call.status, call.error, more = error.status, error.message[:_LONGEST], error.headers
        except Exception as error:
            log.exception("request %s failed", call.id)
            fault = failed(call, error)
            call.status, call.error, more = fault.status, fault.message, fault.headers
        finally:
            self.inference.leave(call)
            self.front.room.leave(call)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})
            await send({"type": "http.response.body", "body": data})
            await send({"type": "http.response.trailers", "headers": grpc_metadata.trailers(call, more)})
        except OSError:
            call.status, call.error = 499, "the caller did not wait for the answer"
        if not sent_away:  # whom the door refused, it has counted
            self.front.end(call)

    async def _answer(self, method: _Method, call: Call, header: Header, receive: h2corn.Receive) -> Any:
        if not (header("content-type") or "").startswith("application/grpc"):
            raise RequestError(501, "only gRPC is spoken here")
        if method.verb == "infer":  # before a big message is read
            self.guard.knock(call, method.verb, header)
        data = await self._message(call, header("grpc-encoding"), receive)
        try:
            request = method.request.FromString(data)
        except DecodeError:
            raise RequestError(400, f"the message is no {method.request.DESCRIPTOR.full_name}") from None
        return await method.work(call, request, header)

    async def _message(self, call: Call, encoding: str | None, receive: h2corn.Receive) -> bytes:
        """The one message of a call, which has room as it comes. RequestError 400, 408, 413, 415 or 503."""
        room, most = self.front.room, MAX_BODY if call.verb == "infer" else _SMALL
        data: bytes | bytearray = b""
        size: int | None = None
        patience = BODY_TIMEOUT_S if call.verb == "infer" else _SMALL_S
        try:
            with Patience(patience):
                while size is None or len(data) < _PREFIX + size:
                    event = await receive()
                    if event["type"] != "http.request":
                        raise RequestError(400, "the caller hung up")
                    if piece := event.get("body", b""):
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
                    if not event.get("more_body"):
                        break
        except TimeoutError:
            raise RequestError(408, f"the message did not arrive within {patience:.0f} s") from None
        if size is None or len(data) < _PREFIX + size:
            raise RequestError(400, "the call ended without a message")
        call.received = size
        message = bytes(memoryview(data)[_PREFIX : _PREFIX + size])
        if data[0]:
            message = await bodies.inflated(message, encoding or "nothing", call, room, most)
        return message

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

    async def _model_infer(self, call: Call, request: Any, header: Header) -> Any:
        model = self.front.find(call, request.model_name, request.model_version or None, header)
        self.inference.admit(call)
        if call.received > bodies.LONG or header("grpc-encoding") not in (None, "identity"):
            arrays = await asyncio.to_thread(grpc_tensors.read, request, model.inputs)
        else:
            arrays = grpc_tensors.read(request, model.inputs)
        wanted = grpc_tensors.wanted(request, model)
        timeouts = filter(None, (grpc_tensors.timeout(request), grpc_metadata.deadline(header("grpc-timeout"))))
        results = await self.inference.run(call, arrays, list(wanted), min(timeouts, default=0.0))
        if grpc_tensors.writes(wanted, results) > MANY:
            return await asyncio.to_thread(grpc_tensors.write, request, model, wanted, results)
        return grpc_tensors.write(request, model, wanted, results)

    async def _repository_index(self, call: Call, _request: Any, header: Header) -> Any:
        return messages.RepositoryIndexResponse(models=self.front.index(call, header))

    async def _repository_change(self, call: Call, _request: Any, header: Header) -> Any:
        raise self.front.refuse_change(call, header)


@contextlib.asynccontextmanager
async def listening(
    services: Grpc, address: str, port: int, most: int, tls: tuple[Path, Path] | None, shared: bool, log_json: bool
) -> AsyncIterator[None]:
    """Answers until it is left, and then what is under way. OSError when it cannot listen there.

    It holds ``most`` connections, and others wait; ``shared`` lets other processes listen there too; ``log_json`` is
    for what h2corn says of its own faults.
    """
    h2corn_lib.emit_banner = _say_nothing  # where it listens stands in the log already, in the log's own form
    of_message = h2corn.RequestPolicy(
        path="/*",
        max_request_body_size=0,  # a message is refused by its own length, in gRPC's words
        timeout_request_body_idle=2 * BODY_TIMEOUT_S,
        h2_timeout_response_stall=_UNTAKEN_S,
    )
    server = h2corn.Server(
        services,
        h2corn.Config(
            bind=(f"[{address}]:{port}" if ":" in address else f"{address}:{port}",),
            reuse_port=shared,
            certfile=tls[0] if tls else None,
            keyfile=tls[1] if tls else None,
            grpc=True,
            http1=False,
            lifespan="off",
            runtime_threads=1,
            access_log=False,
            log_format="json" if log_json else "text",
            request_policies=(of_message,),
            max_concurrent_streams=_STREAMS,
            limit_concurrency=_HELD,
            limit_connections=most,
            h2_initial_stream_window_size=_WINDOW,
            h2_initial_connection_window_size=_WINDOW,
            h2_max_header_list_size=_HEAD,
            h2_max_header_block_size=_HEAD,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_GRACE_S,
        ),
    )
    serving = asyncio.create_task(server.serve())
    await server.wait_started()
    log.info("gRPC at %s:%d", address, port)
    try:
        yield
    finally:
        server.shutdown()
        try:
            await serving
        except RuntimeError as error:
            log.warning("calls were not answered in %.0f s: %s", _GRACE_S, error)


def _say_nothing(config: h2corn.Config, tls: object) -> None:
    """In place of h2corn's lines when it starts, for which it has no setting."""


class Patience:
    """``asyncio.timeout`` at a fifth of its cost (1 instead of 5 µs): TimeoutError when the block takes too long."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._over = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        # Who was cancelled by somebody else too stays cancelled.
        if self._over and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError

    def _end(self) -> None:
        self._over = True
        if self._task:
            self._task.cancel()
