"""A listener of the endpoint's over real sockets, in the event loop of its own that the endpoint has."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import uvloop

from nightshift.serving.listener import Listener


class Wired(Protocol):
    """What listens for a test; ``gate`` holds back the answers of those who ask to wait until it is set."""

    listener: Listener
    gate: asyncio.Event
    port: int


World = TypeVar("World", bound=Wired)


def run(make: Callable[[], World], work: Callable[[World], Awaitable[None]]) -> None:
    """Let it listen while the test works; nothing may be left of it."""

    async def main() -> None:
        world = make()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            world.port = free.getsockname()[1]
        await world.listener.listen("127.0.0.1", world.port, None, shared=False)
        async with asyncio.timeout(60):
            await work(world)
            world.gate.set()
            await world.listener.close(10)
        assert not world.listener.connections
        assert world.listener.untaken == 0

    uvloop.run(main())


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0.01)
