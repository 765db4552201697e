"""The event loop stays awake for who asks one request after the other, and for nobody else."""

import asyncio
import socket
import time
from collections.abc import Callable

import psutil
import pytest

from nightshift.serving import awake
from nightshift.serving.awake import SHORT_S, STREAK, Awake
from nightshift.serving.call import Call
from tests.serving.world import Endpoint, World, wait_for

TOOK_S = 0.001
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def ask(awake: Awake, count: int, pause: float, took: float = TOOK_S) -> None:
    """So many requests, each this long after the answer to the one before; the last is answered now."""
    first = time.perf_counter() - count * took - (count - 1) * pause
    for number in range(count):
        awake.watch(Call("id", "rest", "infer", first + number * (took + pause), seconds=took))


@pytest.mark.parametrize(
    ("count", "pause", "took", "stays"),
    [
        (STREAK + 1, 0.01, TOOK_S, True),
        (STREAK + 1, 0.9, TOOK_S, True),
        (STREAK, 0.01, TOOK_S, False),
        (2 * STREAK, 1.1, TOOK_S, False),
        (2 * STREAK, 0.01, 2 * SHORT_S, False),
    ],
    ids=["at once", "soon", "not yet expected", "late", "long"],
)
def test_it_is_for_who_has_asked_soon_after_each_answer(
    monkeypatch: pytest.MonkeyPatch, count: int, pause: float, took: float, stays: bool
) -> None:
    monkeypatch.setattr(awake, "STAY_S", 1.0)  # so that it does not matter how busy this machine is

    async def found() -> bool:
        one = Awake()
        ask(one, count, pause, took)
        await asyncio.sleep(0.1)
        return one.stays

    assert asyncio.run(found()) is stays


def test_several_at_once_need_it_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "STAY_S", 1.0)

    async def found() -> bool:
        one = Awake()
        ask(one, 4 * STREAK, -TOOK_S / 2)
        return one.stays

    assert not asyncio.run(found())


def test_what_comes_meanwhile_is_handled_and_then_it_sleeps_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "STAY_S", 0.5)

    async def found() -> tuple[bool, bool]:
        one = Awake()
        ask(one, STREAK + 1, 0.01)
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.send(b"come")
        assert await asyncio.get_running_loop().sock_recv(reader, 4) == b"come"
        during = one.stays
        await asyncio.sleep(0.6)
        return during, one.stays

    assert asyncio.run(found()) == (True, False)


def test_an_endpoint_keeps_its_core_while_it_is_asked_again_at_once_and_only_then(
    served: tuple[World, Endpoint, str],
) -> None:
    _, endpoint, _ = served
    process = psutil.Process(endpoint.process.pid)

    def left_its_core(ask: Callable[[], object]) -> int:
        before = sum(process.num_ctx_switches())
        ask()
        return sum(process.num_ctx_switches()) - before

    with socket.create_connection(("127.0.0.1", endpoint.port)) as connection:

        def ask_often() -> None:
            for _ in range(100):
                connection.sendall(LIVE)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")

        wait_for(lambda: left_its_core(ask_often) < 30, 120)  # else once a request; a busy machine may take it away
        used = sum(process.cpu_times()[:2])
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - used < 0.3
