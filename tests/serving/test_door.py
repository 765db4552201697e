"""Who is refused before anything is looked up, and what all bodies may hold together."""

import asyncio
import gzip
import json
import resource
import time
import zlib
from types import SimpleNamespace

import pytest

from nightshift.serving.bodies import ROOM, Body, Room, inflated
from nightshift.serving.call import Call
from nightshift.serving.door import MANY, TURN_S, Door
from nightshift.serving.tensors import RequestError
from nightshift.serving.turn import Turn
from tests.serving.world import ADMIN, IMAGE, World


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The door's own, which stands still until it is moved."""
    moved = SimpleNamespace(now=100.0)
    monkeypatch.setattr("nightshift.serving.door.time", SimpleNamespace(perf_counter=lambda: moved.now))
    return moved


async def turn(door: Door, clock: SimpleNamespace, came: int, seconds: float) -> list[bool]:
    """Who is refused of so many that one turn of the event loop has ready, at so many seconds each."""
    found = []
    for _ in range(came):
        found.append(door.refuses("rest"))
        clock.now += seconds
    await asyncio.sleep(0)
    return found


def test_what_a_long_turn_has_not_read_in_time_is_refused_and_the_next_turn_begins_anew(clock) -> None:
    async def work() -> None:
        door = Door(Turn())
        found = await turn(door, clock, 200, 0.001)
        assert found == sorted(found), "who is read first is let in"
        assert found.count(False) == pytest.approx(TURN_S / 0.001, abs=2)
        assert door.refused == {"rest": found.count(True), "grpc": 0}
        assert not any(await turn(door, clock, 50, 0.001))

    asyncio.run(work())


def test_a_slow_machine_with_few_requests_refuses_none(clock) -> None:
    async def work() -> None:
        door = Door(Turn())
        for _ in range(5):
            assert not any(await turn(door, clock, MANY, 1.0))
        assert (await turn(door, clock, MANY + 1, 1.0))[-1]

    asyncio.run(work())


def test_the_log_says_when_refusing_begins_and_when_it_is_over(
    clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nightshift.serving.door._CALM_S", 0.02)

    async def work() -> None:
        door = Door(Turn())
        for _ in range(3):
            await turn(door, clock, 200, 0.001)
        assert len(caplog.messages) == 1
        while len(caplog.messages) < 2:
            await asyncio.sleep(0.01)
        assert f"{door.refused.total()} were refused" in caplog.messages[1]
        await turn(door, clock, 200, 0.001)
        assert len(caplog.messages) == 3, "it began again"

    asyncio.run(work())


def call() -> Call:
    return Call("1", "rest", "infer", time.perf_counter())


def test_bodies_have_room_together_and_give_it_back() -> None:
    room, first, second = Room(100), call(), call()
    room.take(first, 60)
    room.take(second, 40)
    with pytest.raises(RequestError) as refused:
        room.take(second, 1)
    assert (refused.value.status, dict(refused.value.headers)) == (503, {"retry-after": "1"})
    room.leave(second)
    assert (room.left, second.holds) == (40, 0)
    room.leave(first)
    assert room.left == 100


def body(*pieces: bytes, length: int | None = None) -> Body:
    found = Body(length)
    for piece in pieces:
        found.come(piece)
    found.whole = True
    return found


def test_a_body_without_room_is_refused_at_its_length_and_one_without_a_length_as_it_comes() -> None:
    room = Room(1000)
    with pytest.raises(RequestError) as refused:
        asyncio.run(body(length=1800).read(call(), room))
    assert (refused.value.status, room.left) == (503, 1000)
    asked, comes = call(), Body(None)
    comes.come(b"x" * 600)
    reading = comes.read(asked, room)
    assert reading.send(None) is comes, "it waits for the rest"
    assert room.left == 400
    comes.come(b"x" * 600)
    with pytest.raises(RequestError) as refused:
        reading.send(None)
    assert (refused.value.status, room.left) == (503, 400)
    room.leave(asked)
    assert asyncio.run(body(b"x" * 300, b"y" * 200, b"z" * 100, length=600).read(asked, room)) == (
        b"x" * 300 + b"y" * 200 + b"z" * 100
    )
    assert room.left == 400


def test_a_body_has_room_as_it_is_inflated() -> None:
    long, short = bytes(3 << 20), bytes(range(200))
    room, asked = Room(2 << 20), call()
    with pytest.raises(RequestError) as refused:
        asyncio.run(inflated(gzip.compress(long), "gzip", asked, room))
    assert (refused.value.status, room.left) == (503, 0), "two parts of it have room"
    room.leave(asked)
    assert asyncio.run(inflated(gzip.compress(short), "gzip", asked, room)) == short
    assert (asked.holds, room.left) == (200, (2 << 20) - 200)
    assert asyncio.run(inflated(short, "identity", asked, room)) == short
    assert asked.holds == 200
    room = Room()
    for length in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20):
        for packed, how in ((gzip.compress(long[:length]), "GZIP"), (zlib.compress(long[:length]), " deflate")):
            assert asyncio.run(inflated(packed, how, call(), room)) == long[:length]
            for wrong in (packed[:-1], packed + b"x"):
                with pytest.raises(RequestError) as refused:
                    asyncio.run(inflated(wrong, how, call(), room))
                assert (refused.value.status, "not one whole" in refused.value.message) == (400, True)
    with pytest.raises(RequestError) as refused:
        asyncio.run(inflated(gzip.compress(long), "gzip", call(), room, most=len(long) - 1))
    assert refused.value.status == 413


def test_room_is_given_back_by_answers_of_all_kinds(served) -> None:
    _, endpoint, _ = served
    before = endpoint.infer()
    huge = json.dumps({"inputs": [{**IMAGE, "data": [0] * 1_000_000}]}).encode()
    for _ in range(ROOM // len(huge) + 2):  # more in all than there is room for at once
        assert endpoint.client.post("/v2/models/toy/infer", content=huge).status_code == 400
    assert endpoint.infer().json() == before.json()


def test_metrics_count_what_the_door_refuses(served) -> None:
    _, endpoint, _ = served
    text = endpoint.client.get("/metrics", headers=ADMIN).text
    for protocol in ("rest", "grpc"):
        labels = f'{{code="503",model="",protocol="{protocol}",role="",verb="infer",version=""}}'
        assert f"nightshift_requests_total{labels} 0.0" in text


def test_who_keeps_asking_on_a_connection_keeps_nobody_out(world: World, start) -> None:
    """More of them than the process may hold: each is answered, because who was has to leave."""
    digest = world.publish()
    world.order(digest, "proven")
    endpoint = start()
    resource.prlimit(endpoint.process.pid, resource.RLIMIT_NOFILE, (512, 512))  # 256 connections; it is still starting
    endpoint.wait_serving(digest)
    body = json.dumps({"inputs": [IMAGE]}).encode()
    head = f"POST /v2/models/toy/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    waiting = set(range(400))

    async def ask(number: int) -> str:
        """The last answer's status; it asks on until all have been answered, or it has to leave."""
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        try:
            while True:
                writer.write(head + body)
                said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(said.split("content-length: ")[1].split("\r\n")[0]))
                waiting.discard(number)
                if not waiting or "connection: close" in said:
                    return said.split()[1]
                await asyncio.sleep(0.2)
        finally:
            writer.close()

    async def all_ask() -> list[str]:
        async with asyncio.timeout(120):
            return await asyncio.gather(*map(ask, list(waiting)))

    assert set(asyncio.run(all_ask())) <= {"200", "503"}
