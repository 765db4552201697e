"""The endpoint's process: granian's RSGI server in this process's own event loop.

Granian's embedded server, not its supervisor, whose workers live on and keep the port when it is killed; several
processes are ``processes.run``'s.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from nightshift.serving import guard as guards
from nightshift.serving import processes
from nightshift.serving.engine import Engine
from nightshift.serving.follow import Follower
from nightshift.serving.guard import Guard
from nightshift.serving.processes import Peers
from nightshift.serving.rest import Rest

log = logging.getLogger("nightshift.serving")


def serve(
    registry: str,
    host: str,
    port: int,
    copies: Path,
    checkout: str | None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    tls: tuple[Path, Path] | None = None,
    count: int = 1,
) -> int:
    """Serve what the ledger of this registry (bucket or folder) wants until SIGTERM or SIGINT; returns an exit status.

    ``copies`` keeps whole releases by digest; ``checkout`` is told in /status, so that a stack knows its own endpoint;
    ``count`` is the number of processes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return processes.run(count, lambda peers: _work(peers, registry, host, port, copies, checkout, hosts, origins, tls))


def _work(
    peers: Peers,
    registry: str,
    host: str,
    port: int,
    copies: Path,
    checkout: str | None,
    hosts: Sequence[str],
    origins: Sequence[str],
    tls: tuple[Path, Path] | None,
) -> None:
    """All that one process does."""
    store = open_store(registry)
    engine = Engine()
    follower = Follower(Registry(store), Ledger(store), engine, copies, peers)
    guard = guards.make(registry, host, port, copies, hosts, origins)

    def refresh() -> None:
        guard.refresh()
        follower.refresh()

    peers.answers["refresh"] = refresh
    rest = Rest(engine, follower, guard, {"registry": store.url, "checkout": checkout})
    uvloop.run(_serve(rest, follower, guard, host, port, tls))


def is_taken(host: str, port: int) -> bool:
    """Whether something listens there. Granian would share the port with it (SO_REUSEPORT) and nobody would notice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


async def _serve(
    rest: Rest, follower: Follower, guard: Guard, host: str, port: int, tls: tuple[Path, Path] | None
) -> None:
    server = Server(
        _app(rest),
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
        ssl_cert=tls[0] if tls else None,
        ssl_key=tls[1] if tls else None,
    )

    def stop() -> None:
        log.info("stopping: requests under way are answered first")
        server.stop()  # closes the listener, then waits for the connections

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await follower.peers.listen()
    follower.start()
    guard.start()
    log.info("endpoint at %s://%s:%d follows %s", "https" if tls else "http", host, port, rest.about["registry"])
    await server.serve()
    follower.stop()
    guard.stop()
    log.info("stopped")


def _app(rest: Rest) -> Any:
    """Granian's RSGI callback: translates, nothing else."""

    async def app(scope: Any, proto: Any) -> None:
        headers = scope.headers
        answer = await rest.answer(scope.method, scope.path, headers.get, proto)
        proto.response_bytes(answer.status, answer.headers, answer.body)

    return app
