"""The Open Inference Protocol v2 over gRPC: methods, messages and metadata to answers, as ``rest`` does it for HTTP."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from nightshift.serving import grpc_tensors
from nightshift.serving import health_pb2 as health
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.bodies import BODY_TIMEOUT_S, MAX_BODY, Room
from nightshift.serving.call import Call
from nightshift.serving.front import Front, Header, failed
from nightshift.serving.request_ids import request_id
from nightshift.serving.tensors import RequestError

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
_STREAMS = 100  # calls under way on one connection
_RPCS = 1000  # and on all
_GRACE_S = 30.0  # for what is under way when the endpoint stops
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    410: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,  # what a client's retry policy repeats
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = logging.getLogger("nightshift.serving")
Work = Callable[[Call, Any, Header], Awaitable[Any]]


class Grpc:
    """Translates; what decides is what decides for REST: the guard, the engine, the admission, and who watches."""

    def __init__(self, front: Front):
        self.front = front
        self.engine, self.guard, self.inference = front.engine, front.guard, front.inference

    def services(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        """Handlers by service and method; any other method is UNIMPLEMENTED, which gRPC says itself."""
        methods: dict[str, tuple[str, Work]] = {
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
        return {
            SERVICE: {
                name: self._method(verb, getattr(messages, f"{name}Request"), work)
                for name, (verb, work) in methods.items()
            },
            HEALTH: {"Check": self._method("ready", health.HealthCheckRequest, self._check)},
        }

    def _method(self, verb: str, request: Any, work: Work) -> grpc.RpcMethodHandler:
        """A unary method, registered as one that may send many messages: so it begins with the headers."""

        async def answer(_: Any, context: grpc.aio.ServicerContext) -> Any:
            header: Header = dict(context.invocation_metadata()).get
            call = Call(request_id(header("x-request-id")), "grpc", verb, time.perf_counter())
            more: Sequence[tuple[str, str]] = ()
            try:
                if verb == "infer":  # before a big message is read
                    self.front.demand_turn()
                    self.guard.knock(call, verb, header)
                found = await work(call, await _message(call, request, context, self.front.room), header)
                data: bytes = found.SerializeToString()
                call.status, call.sent = 200, len(data)
                return data
            except RequestError as error:
                call.status, call.error, more = error.status, error.message, error.headers
                context.set_code(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT))
                context.set_details(error.message)
            except asyncio.CancelledError:  # its deadline is over, or it hung up
                call.status, call.error = 499, "the caller did not wait for the answer"
                raise
            except Exception:
                log.exception("request %s failed", call.id)
                call.status, call.error = 500, failed(call).message
                context.set_code(grpc.StatusCode.INTERNAL)
                context.set_details(call.error)
            finally:
                self.inference.leave(call)
                self.front.room.leave(call)
                context.set_trailing_metadata(_trailers(call, more))
                self.front.watched(call)
            return None

        return grpc.stream_unary_rpc_method_handler(answer)

    async def _server_live(self, _call: Call, _request: Any, _header: Header) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _call: Call, _request: Any, _header: Header) -> Any:
        return messages.ServerReadyResponse(ready=await self.front.is_ready())

    async def _check(self, _call: Call, request: Any, _header: Header) -> Any:
        """gRPC's own health check, of the server or of a model by its name."""
        server = request.service in ("", SERVICE)
        if not server and request.service not in self.engine.names():
            raise RequestError(404, f"there is no service or model {request.service[:100]!r} here")
        ready = await self.front.is_ready() if server else True
        states = health.HealthCheckResponse
        return health.HealthCheckResponse(status=states.SERVING if ready else states.NOT_SERVING)

    async def _server_metadata(self, call: Call, _request: Any, header: Header) -> Any:
        return messages.ServerMetadataResponse(**self.front.server(call, header))

    async def _model_ready(self, call: Call, request: Any, header: Header) -> Any:
        with contextlib.suppress(RequestError):
            call.model, call.role = self.engine.find(request.name, request.version or None)
        self.guard.enter(call, "infer", header)
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
        arrays = grpc_tensors.read(request, model.inputs)
        wanted = grpc_tensors.wanted(request, model)
        results = await self.inference.run(call, arrays, list(wanted), grpc_tensors.timeout(request))
        return grpc_tensors.write(request, model, wanted, results)

    async def _repository_index(self, call: Call, _request: Any, header: Header) -> Any:
        return messages.RepositoryIndexResponse(models=self.front.index(call, header))

    async def _repository_change(self, call: Call, _request: Any, header: Header) -> Any:
        raise self.front.refuse_change(call, header)


@contextlib.asynccontextmanager
async def listening(services: Grpc, address: str, port: int, tls: tuple[Path, Path] | None) -> AsyncIterator[None]:
    """Answers until it is left, and then what is under way. RuntimeError when it cannot listen there."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_BODY),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.keepalive_time_ms", 60_000),  # a peer that is gone without a word
            ("grpc.keepalive_timeout_ms", 20_000),
        ],
        maximum_concurrent_rpcs=_RPCS,
    )
    for service, methods in services.services().items():
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        if service == SERVICE:
            # A method that grpc knows of is found faster, and each of them slows down all others.
            server.add_registered_method_handlers(service, {"ModelInfer": methods["ModelInfer"]})
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if tls is None:
        server.add_insecure_port(where)
    else:
        certificate, key = tls[0].read_bytes(), tls[1].read_bytes()
        server.add_secure_port(where, grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    log.info("gRPC at %s", where)
    try:
        yield
    finally:
        await server.stop(_GRACE_S)


class _Patience:
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


async def _message(call: Call, request: Any, context: grpc.aio.ServicerContext, room: Room) -> Any:
    """The one message of a call. RequestError 400, 408, or 503 where there is no room for it.

    Its length is known when it is here: nothing of it is read while there is no room for a message of any length.
    """
    room.demand(MAX_BODY)
    try:
        with _Patience(BODY_TIMEOUT_S):
            data = await context.read()
    except TimeoutError:
        raise RequestError(408, f"the message did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    if data is grpc.aio.EOF:
        raise RequestError(400, "the call ended without a message")
    call.received = len(data)
    room.take(call, len(data))
    try:
        return request.FromString(data)
    except DecodeError:
        raise RequestError(400, f"the message is no {request.DESCRIPTOR.full_name}") from None


def _trailers(call: Call, more: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """What stands in a REST answer's headers; a pause that is asked for also in the words of gRPC's retry policy."""
    found = [("x-request-id", call.id)]
    if call.model is not None and call.status not in (401, 403):
        found += [("nightshift-model", call.model.name), ("nightshift-digest", call.model.digest)]
        if call.role:
            found.append(("nightshift-role", call.role))
    for name, value in more:
        found.append((name, value))
        if name == "retry-after":
            found.append(("grpc-retry-pushback-ms", str(1000 * int(value))))
    return tuple(found)
