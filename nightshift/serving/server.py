"""The endpoint's process: all that it is made of, put together, in one event loop; several are ``processes.run``'s."""

import asyncio
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop

from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.signing import Trust
from nightshift.releases.store import open_store
from nightshift.serving import guard as guards
from nightshift.serving import http1, logs, processes
from nightshift.serving.awake import Awake
from nightshift.serving.door import TOO_MUCH, Door
from nightshift.serving.engine import Engine
from nightshift.serving.exchange import Answer, Handler, Request
from nightshift.serving.follow import Follower
from nightshift.serving.front import Front
from nightshift.serving.inference import Inference
from nightshift.serving.listener import Listener
from nightshift.serving.logs import AccessLog
from nightshift.serving.processes import Peers
from nightshift.serving.request_ids import request_id
from nightshift.serving.rest import Rest
from nightshift.serving.samples import Plan
from nightshift.serving.statistics import Statistics
from nightshift.serving.turn import Turn
from nightshift.serving.watch import Watch

_CONNECTIONS = 2048  # that one process holds over HTTP; as many again wait in the kernel's queue
_GRPC_CONNECTIONS = 512  # and over gRPC, where one carries many calls
_OTHER_FILES = 256
_REFUSED = orjson.dumps({"error": TOO_MUCH})
_PATIENCE_S = 30.0  # for what is under way when the endpoint stops
_LOADING_S = 30.0  # that nobody is let in where others would answer, while this process loads what it is to serve

log = logging.getLogger("nightshift.serving")


@dataclass(frozen=True)
class Settings:
    """What one endpoint is told. ``registry`` is a bucket or folder, ``copies`` keeps whole releases by digest.

    ``checkout`` is told in /status, so that a stack knows its own endpoint; ``tls`` is a certificate and its key;
    ``count`` the number of processes; ``plan`` says which samples are kept; ``trust`` whose signature a release must
    have.
    """

    registry: str
    host: str
    port: int
    copies: Path
    checkout: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    tls: tuple[Path, Path] | None = None
    grpc_port: int | None = None
    count: int = 1
    log_level: str = "info"
    log_json: bool | None = None
    plan: Plan = field(default_factory=Plan)
    trust: Trust | None = None


def serve(settings: Settings) -> int:
    """Serve what the ledger wants until one of ``processes.endings``; returns an exit status."""
    access = logs.set_up(settings.log_level, settings.log_json)
    return processes.run(settings.count, lambda peers: _work(peers, settings, access))


def _work(peers: Peers, settings: Settings, access: AccessLog) -> None:
    """All that one process does."""
    store = open_store(settings.registry)
    engine = Engine()
    follower = Follower(Registry(store), Ledger(store), engine, settings.copies, peers, settings.trust)
    guard = guards.make(
        settings.registry, settings.host, settings.port, settings.copies, settings.hosts, settings.origins
    )

    def refresh() -> None:
        guard.refresh()
        follower.refresh()

    peers.answers["refresh"] = refresh
    turn = Turn()
    inference = Inference(turn)
    watch = Watch(follower, inference, access, guard.usage.store, guard.usage.instance, settings.plan)
    statistics = Statistics(peers)
    watchers = (guard.watch, follower.tallies.watch, statistics.watch, *watch.watchers, Awake().watch)
    door = Door(turn)
    watch.metrics.facts.append(door.facts)
    front = Front(engine, follower, guard, inference, watchers, statistics, door)
    rest = Rest(front, watch, {"registry": store.url, "checkout": settings.checkout})
    uvloop.run(_serve(rest, settings))


def is_taken(host: str, port: int) -> bool:
    """Whether something listens there: several processes (SO_REUSEPORT) would share the port with it unnoticed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


async def _serve(rest: Rest, settings: Settings) -> None:
    follower, guard = rest.follower, rest.guard
    host, port, tls = settings.host, settings.port, settings.tls
    http_most, grpc_most = _connections()
    http = Listener(partial(http1.Connection, _handler(rest)), http_most)
    listeners = [http]

    def stop() -> None:
        stopping.set()  # first: whatever becomes of the line
        log.info("stopping: requests under way are answered first")

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    endings = processes.endings()
    for number in endings:
        loop.add_signal_handler(number, stop)

    follower.start()
    guard.start()
    if follower.peers.again:  # others share the port, and have what this one has yet to load
        await _wait(lambda: follower.engine.is_complete or stopping.is_set())
    await http.listen(host, port, tls, shared=settings.count > 1)
    await follower.peers.listen()
    rest.watch.start()
    log.info("endpoint at %s://%s:%d follows %s", "https" if tls else "http", host, port, rest.about["registry"])
    if settings.grpc_port:  # a load balancer asks another replica when it cannot connect, not when it is refused
        await _wait(lambda: (guard.ready and follower.ready) or stopping.is_set())
    if settings.grpc_port and not stopping.is_set():
        from nightshift.serving import grpc_server, http2  # only if it is asked for, and after a fork

        rpc = Listener(partial(http2.Connection, grpc_server.Grpc(rest.front)), grpc_most, alpn="h2")
        await rpc.listen(host, settings.grpc_port, tls, shared=settings.count > 1)
        listeners.append(rpc)
        log.info("gRPC at %s:%d", host, settings.grpc_port)
    await stopping.wait()
    await asyncio.gather(*(listener.close(_PATIENCE_S) for listener in listeners))
    follower.stop()
    guard.stop()
    rest.watch.stop()
    for number in endings:  # who asks once more must not kill what has ended well
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    log.info("stopped")


async def _wait(what: Callable[[], bool]) -> None:
    """Until it is true, or _LOADING_S are over."""
    until = time.monotonic() + _LOADING_S
    while not what() and time.monotonic() < until:
        await asyncio.sleep(0.01)


def _connections() -> tuple[int, int]:
    """How many connections this process may hold over HTTP and over gRPC: each is an open file, of which it allows
    itself more if it can; of fewer than it wants, both have their share.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, most = (limit if limit != resource.RLIM_INFINITY else 1 << 20 for limit in limits)
    wanted = _CONNECTIONS + _GRPC_CONNECTIONS
    if allowed < wanted + _OTHER_FILES:
        allowed = min(wanted + _OTHER_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, limits[1]))
    left = min(wanted, allowed - _OTHER_FILES)
    return max(1, left * _CONNECTIONS // wanted), max(1, left * _GRPC_CONNECTIONS // wanted)


def _handler(rest: Rest) -> Handler:
    """What answers each request, or refuses it at the door."""
    door = rest.front.door

    def handle(request: Request) -> Coroutine[Any, Any, None] | None:
        if request.path.endswith(("/infer", ":predict")) and door.refuses("rest"):
            identity = ("x-request-id", request_id(request.header("x-request-id")))
            headers = [("content-type", "application/json"), ("retry-after", "1"), identity]
            request.answer(Answer(503, _REFUSED, headers))
            return None
        return rest.answer(request)

    return handle
