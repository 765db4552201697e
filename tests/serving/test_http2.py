"""HTTP/2 over real sockets: calls side by side, too many, too slow, taken back, refused early; connections that end."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from benchmarks.serving.grpc_load import frame, header_block
from nightshift.serving import http2, listener
from nightshift.serving.http2 import STREAMS, Stream
from nightshift.serving.listener import Listener
from tests.serving import wire
from tests.serving.wire import until

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM = 1
END_HEADERS = 4
NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL = 0, 1, 5, 7, 8
LAST = (1 << 31) - 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WIDE = struct.pack(">HI", 4, 1 << 30)  # settings: each answer may have a gigabyte before it is asked for more
Frame = tuple[int, int, int, bytes]  # kind, flags, stream, payload


class Client:
    """One connection, frame by frame, because every library keeps its user from the half of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.stream = -1

    def call(self, body: bytes = b"hello", whole: bool = True, **headers: str) -> int:
        """Begin a call; its number."""
        self.stream += 2
        self.writer.write(frame(HEADERS, END_HEADERS, self.stream, header_block(1, headers)))
        self.more(self.stream, body, whole)
        return self.stream

    def more(self, stream: int, body: bytes, whole: bool) -> None:
        self.writer.write(frame(DATA, END_STREAM if whole else 0, stream, body))

    def reset(self, stream: int) -> None:
        self.writer.write(frame(RESET, 0, stream, CANCEL.to_bytes(4, "big")))

    async def frame(self) -> Frame:
        """The next one that is no matter of course."""
        while True:
            head = await self.reader.readexactly(9)
            size, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
            payload = await self.reader.readexactly(size)
            to_what_is_over = (kind, payload) == (RESET, STREAM_CLOSED.to_bytes(4, "big"))
            if kind not in (SETTINGS, WINDOW) and not to_what_is_over:
                return kind, flags, stream, payload

    async def answer(self, stream: int) -> bytes:
        """Its body, when its trailers have come; nothing of another call may come between."""
        body = b""
        while True:
            kind, flags, of, payload = await self.frame()
            assert of == stream, (kind, flags, of, payload)
            if kind == DATA:
                body += payload
            elif kind == HEADERS and flags & END_STREAM:
                return body
            else:
                assert kind == HEADERS, (kind, payload)

    async def end(self) -> list[Frame]:
        """All that comes until the other side has closed."""
        found: list[Frame] = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                found.append(await self.frame())
        return found


class World:
    """A server that echoes. ``gate`` holds back the answers of those who ask to wait until it is set."""

    def __init__(self) -> None:
        self.begun = 0
        self.said: list[str] = []
        self.gate = asyncio.Event()
        self.listener = Listener(partial(http2.Connection, self.echo), most=8)
        self.port = 0

    async def echo(self, stream: Stream) -> None:
        self.begun += 1
        body = b""
        if stream.header("early"):
            self.tell(stream, b"no")
            return
        stream.until = time.monotonic() + float(stream.header("patience") or 30)
        try:
            while piece := await stream:
                body += piece
        except TimeoutError:
            self.tell(stream, b"too slow")
            return
        except ConnectionError:
            self.said.append("gone")
            return
        if stream.header("wait"):
            await self.gate.wait()
        self.tell(stream, body * int(stream.header("times") or 1))

    def tell(self, stream: Stream, body: bytes) -> None:
        headers = [(b"content-type", b"application/grpc")]
        self.said.append("sent" if stream.answer(headers, body, [(b"grpc-status", b"0")]) else "unsent")

    @contextlib.asynccontextmanager
    async def client(self, settings: bytes = WIDE) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW, 0, 0, (1 << 30).to_bytes(4, "big")))
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


run = partial(wire.run, World)


def test_calls_side_by_side_are_answered_as_they_are_ready() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            first, second = client.call(b"one", wait="1"), client.call(b"two")
            assert await client.answer(second) == b"two"
            third = client.call(b"thr", whole=False)
            client.more(third, b"ee", whole=True)
            assert await client.answer(third) == b"three"
            world.gate.set()
            assert await client.answer(first) == b"one"

    run(work)


def test_a_body_in_pieces_is_given_as_it_comes() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            call = client.call(b"a", whole=False)
            for piece in (b"b" * 16000, b"", b"c" * 16000):
                client.more(call, piece, whole=False)
                await asyncio.sleep(0.02)
            client.more(call, b"", whole=True)
            assert await client.answer(call) == b"a" + b"b" * 16000 + b"c" * 16000

    run(work)


def test_an_answer_leaves_before_the_one_who_is_held_up_by_another_call() -> None:
    """Each has its own window: what one does not take holds up no other on the same connection."""

    async def work(world: World) -> None:
        async with world.client(struct.pack(">HI", 4, 10)) as client:
            big = client.call(b"x" * 10, times="5")
            assert [(await client.frame())[0] for _ in range(2)] == [HEADERS, DATA]
            small = client.call(b"y" * 10)
            assert await client.answer(small) == b"y" * 10
            client.writer.write(frame(WINDOW, 0, big, (100).to_bytes(4, "big")))
            assert await client.answer(big) == b"x" * 40

    run(work)


def test_who_sends_too_slowly_is_told_and_the_rest_is_not_wanted() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            slow = client.call(b"x", whole=False, patience="0.3")
            assert await client.answer(slow) == b"too slow"
            assert await client.frame() == (RESET, 0, slow, NO_ERROR.to_bytes(4, "big"))
            assert await client.answer(client.call()) == b"hello"

    run(work)


def test_who_is_refused_early_may_still_be_sending() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            for _ in range(300):  # more than zttp lets a connection have of calls that were taken back
                refused = client.call(b"x" * 100, whole=False, early="1")
                assert await client.answer(refused) == b"no"
                assert await client.frame() == (RESET, 0, refused, NO_ERROR.to_bytes(4, "big"))
            assert await client.answer(client.call()) == b"hello"

    run(work)


def test_calls_beyond_those_that_may_be_at_once_are_refused_and_do_not_count() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            calls = [client.call(wait="1") for _ in range(STREAMS)]
            beyond = client.call()
            assert await client.frame() == (RESET, 0, beyond, REFUSED_STREAM.to_bytes(4, "big"))
            world.gate.set()
            assert {await client.answer(call) for call in calls} == {b"hello"}
            assert await client.answer(client.call()) == b"hello"
        assert world.said == ["sent"] * (STREAMS + 1)

    run(work)


def test_a_call_that_is_taken_back_keeps_its_place_until_it_has_ended() -> None:
    """Else who begins and takes back in turn would have as many under way as he likes (CVE-2023-44487)."""

    async def work(world: World) -> None:
        async with world.client() as client:
            calls = [client.call(wait="1") for _ in range(STREAMS)]
            await until(lambda: world.begun == STREAMS)
            for call in calls:
                client.reset(call)
            beyond = client.call()
            while (found := await client.frame())[0] == GOAWAY:
                pass  # so many were taken back that it is to leave
            assert found == (RESET, 0, beyond, REFUSED_STREAM.to_bytes(4, "big"))
            world.gate.set()
            await until(lambda: len(world.said) == STREAMS)
            assert set(world.said) == {"unsent"}

    run(work)


@pytest.mark.parametrize("what", ["used", "taken back"])
def test_a_client_is_told_in_time_to_make_a_new_connection(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """And what it has begun there before it knows is answered."""
    monkeypatch.setattr(http2, "_CALLS" if what == "used" else "_TAKEN_BACK", 5)

    async def work(world: World) -> None:
        async with world.client() as client:
            waits = client.call(b"waits", wait="1")
            for _ in range(5 - (what == "used")):
                call = client.call(whole=what == "used")
                if what == "used":
                    assert await client.answer(call) == b"hello"
                else:
                    client.reset(call)
            kind, _, _, payload = await client.frame()
            assert (kind, payload) == (GOAWAY, struct.pack(">II", LAST, NO_ERROR))
            late = client.call(b"late")
            assert await client.answer(late) == b"late"
            await asyncio.sleep(1)
            world.gate.set()
            assert await client.answer(waits) == b"waits"
            assert await client.end() == [(GOAWAY, 0, 0, struct.pack(">II", late, NO_ERROR))]

    run(work)


def test_it_is_told_before_zttp_ends_the_connection_for_good() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            for _ in range(http2._CALLS - 1):
                assert await client.answer(client.call()) == b"hello"
            last = client.call(b"last")
            assert await client.answer(last) == b"last"
            assert await client.frame() == (GOAWAY, 0, 0, struct.pack(">II", LAST, NO_ERROR))
            assert await client.answer(client.call(b"one more")) == b"one more"

    run(work)


def test_a_connection_without_a_call_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "IDLE_S", 0.5)

    async def work(world: World) -> None:
        async with world.client() as client:
            call = client.call(b"waits", wait="1")
            await asyncio.sleep(1.5)
            world.gate.set()
            assert await client.answer(call) == b"waits", "one that has a call stays"
            goaway, last = await client.end()
            assert goaway[3] == struct.pack(">II", LAST, NO_ERROR)
            assert last[3] == struct.pack(">II", call, NO_ERROR)
        async with world.client() as client:
            client.writer.write(frame(HEADERS, 0, 1, header_block(1, {})))  # headers that do not end are no call
            assert {found[0] for found in await client.end()} == {GOAWAY}

    run(work)


def test_when_it_stops_what_is_under_way_is_answered_and_what_comes_late_is_not_lost() -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            waits = client.call(b"waits", wait="1")
            await until(lambda: world.listener.connections)
            await client.answer(client.call())  # so the one before it has begun there
            closing = asyncio.ensure_future(world.listener.close(10))
            assert await client.frame() == (GOAWAY, 0, 0, struct.pack(">II", LAST, NO_ERROR))
            assert await client.answer(client.call(b"late")) == b"late"
            world.gate.set()
            assert await client.answer(waits) == b"waits"
            await closing
            assert [found[0] for found in await client.end()] == [GOAWAY]

    run(work)


def test_who_does_not_take_an_answer_loses_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as some of it is taken, it is waited for."""
    monkeypatch.setattr(http2, "UNTAKEN_S", 0.6)

    async def work(world: World) -> None:
        async with world.client(struct.pack(">HI", 4, 10)) as client:
            never, slow = client.call(b"x" * 10, times="1000"), client.call(b"y" * 10, times="8")
            await until(lambda: world.listener.untaken == 9990 + 70)
            client.writer.write(frame(WINDOW, 0, never, (10).to_bytes(4, "big")))
            for _ in range(7):
                await asyncio.sleep(0.3)
                client.writer.write(frame(WINDOW, 0, slow, (10).to_bytes(4, "big")))
            found: dict[int, list[tuple[int, bytes]]] = {never: [], slow: []}
            while not found[slow] or found[slow][-1][0] != HEADERS or len(found[slow]) < 3:
                kind, _, stream, payload = await client.frame()
                found[stream].append((kind, payload))
            assert b"".join(payload for kind, payload in found[slow] if kind == DATA) == b"y" * 80
            assert found[never][-1] == (RESET, CANCEL.to_bytes(4, "big"))
            await until(lambda: world.listener.untaken == 0)
            assert await client.answer(client.call(b"z")) == b"z"

    run(work)


def test_a_window_of_a_byte_costs_not_more_the_longer_the_answer_is() -> None:
    """It took more than a minute when zttp was given the whole answer, which it moves when a part of it leaves."""

    async def work(world: World) -> None:
        async with world.client(struct.pack(">HI", 4, 0)) as client, world.client() as other:
            big = client.call(b"x" * 1000, times="30000")
            for _ in range(60):
                client.writer.write(frame(WINDOW, 0, big, (1).to_bytes(4, "big")) * 1000)
                assert await other.answer(other.call()) == b"hello"
            got = 0
            while got < 60_000:
                kind, _, _, payload = await client.frame()
                got += len(payload) if kind == DATA else 0

    run(work)


@pytest.mark.parametrize("window", [0, 1 << 30], ids=["it does not allow them", "it does not read them"])
def test_answers_that_nobody_takes_have_a_limit_together(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(listener, "UNTAKEN", 12_000_000)

    async def work(world: World) -> None:
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(6):
                client = await clients.enter_async_context(world.client(struct.pack(">HI", 4, window)))
                client.call(b"x" * 1000, times="9000")
            await until(lambda: len(world.said) == 6 and 0 < world.listener.untaken < 12_000_000)
            assert len(world.listener.connections) < 6
        await until(lambda: world.listener.untaken == 0)
        async with world.client() as client:
            assert len(await client.answer(client.call(b"x" * 1000, times="9000"))) == 9_000_000

    run(work)


def test_who_does_not_read_is_read_no_more_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNTAKEN_S", 0.5)

    async def work(world: World) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", world.port))
            await loop.sock_sendall(client, PREFACE + frame(SETTINGS, 0, 0, b""))
            with contextlib.suppress(ConnectionError):
                while True:
                    await loop.sock_sendall(client, frame(PING, 0, 0, b"12345678") * 1000)
        await until(lambda: not world.listener.connections)

    run(work)


@pytest.mark.parametrize("how", ["hangs up", "takes it back", "breaks the protocol"])
def test_a_caller_who_is_gone_is_known_to_be(how: str) -> None:
    async def work(world: World) -> None:
        async with world.client() as client:
            client.call(b"waits", wait="1")
            sends = client.call(b"begins", whole=False)
            await client.answer(client.call())
            if how == "takes it back":
                client.reset(1)
                client.reset(sends)
            elif how == "breaks the protocol":
                client.writer.write(frame(DATA, 0, 0, b"of no call"))
                ((kind, _, _, payload),) = await client.end()
                assert (kind, payload[4:]) == (GOAWAY, PROTOCOL_ERROR.to_bytes(4, "big"))
        await until(lambda: "gone" in world.said)
        world.gate.set()
        await until(lambda: len(world.said) == 3)
        assert world.said == ["sent", "gone", "unsent"]

    run(work)


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_frames_in_pieces_are_the_same_frames(piece: int) -> None:
    async def work(world: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        sent = PREFACE + frame(SETTINGS, 0, 0, WIDE) + frame(HEADERS, END_HEADERS, 1, header_block(1, {}))
        sent += frame(DATA, 0, 1, b"in") + frame(DATA, END_STREAM, 1, b"pieces")
        for at in range(0, len(sent), piece):
            writer.write(sent[at : at + piece])
            await asyncio.sleep(0)
        assert await Client(reader, writer).answer(1) == b"inpieces"
        writer.close()

    run(work)


def test_a_handler_that_raises_ends_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        async with world.client() as other, world.client() as client:
            client.call(b"x", times="not a number")
            await client.end()
            assert await other.answer(other.call()) == b"hello"
        await until(lambda: not world.listener.connections)

    run(work)
    assert "not a number" in caplog.text
