"""HTTP/1.1 over real sockets: what comes together, in pieces, too slowly, too big, broken, or goes away half-way."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

import pytest

from nightshift.serving import bodies, http1, listener
from nightshift.serving.bodies import Room
from nightshift.serving.call import Call
from nightshift.serving.exchange import Answer, Request
from nightshift.serving.listener import Listener
from nightshift.serving.tensors import RequestError
from tests.serving import wire
from tests.serving.wire import until

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Client = tuple[Reader, Writer]
JSON = b"Content-Length: 2\r\n\r\n{}"


class World:
    """A server that echoes, and what it was asked. ``gate`` holds back the answers of /wait until it is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[Request] = []
        self.answered: list[str] = []
        self.gate = asyncio.Event()
        self.room = Room()
        self.listener = Listener(partial(http1.Connection, self.handle), most=8)
        self.port = 0

    def handle(self, request: Request) -> Coroutine[Any, Any, None] | None:
        if request.fault:
            self.answer(request, request.fault.status, request.fault.message.encode())
            return None
        self.asked.append(f"{request.method} {request.path}")
        self.requests.append(request)
        if request.path == "/refuse":
            self.answer(request, 503, b"no")
            return None
        return self.echo(request)

    async def echo(self, request: Request) -> None:
        call = Call("1", "rest", "", 0.0)
        try:
            if request.path == "/early":
                await self.gate.wait()
            data = await request.body.read(call, self.room)
            if request.path == "/slow":
                await asyncio.sleep(0.4)
            if request.path == "/wait":
                await asyncio.sleep(0)
                await self.gate.wait()
        except RequestError as error:
            self.answer(request, error.status, error.message.encode())
            return
        finally:
            self.room.leave(call)
        size = int(request.header("x-answer") or 0)
        self.answer(request, 200, data or request.path.encode(), b"x" * size)

    def answer(self, request: Request, status: int, *parts: bytes) -> None:
        self.answered.append(request.path)
        request.answer(Answer(status, b"".join(parts), [("x-path", request.path)]))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


run = partial(wire.run, World)


async def answer_of(reader: Reader, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = b"" if head_only else await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers, body


def post(path: str = "/", more: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + more


def test_one_connection_is_used_again_and_again() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            for number in range(3):
                writer.write(post(f"/{number}", JSON))
                status, headers, body = await answer_of(reader)
                assert (status, headers["x-path"], body) == (200, f"/{number}", b"{}")
                assert "connection" not in headers
                assert headers["date"].endswith(" GMT")
        assert world.answered == ["/0", "/1", "/2"]

    run(work)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_pieces_is_the_same_request(size: int) -> None:
    async def work(world: World) -> None:
        chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 3 + b"0\r\nX-Trailer: y\r\n\r\n"
        sent = post("/a%20b?x=1", b"Content-Length: 300\r\n\r\n" + b"y" * 300) + post("/c", chunked)
        async with world.client() as (reader, writer):
            for at in range(0, len(sent), size):
                writer.write(sent[at : at + size])
                await asyncio.sleep(0)
            assert (await answer_of(reader))[2] == b"y" * 300
            assert (await answer_of(reader))[2] == b"hello" * 3
        assert world.asked == ["POST /a b", "POST /c"]

    run(work)


def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/wait", JSON) + post("/1", JSON) + post("/refuse", JSON) + post("/2", JSON)[:-1])
            await until(lambda: world.asked)
            await asyncio.sleep(0.05)
            assert world.asked == ["POST /wait"], "nothing behind it is begun"
            world.gate.set()
            found = [(await answer_of(reader)) for _ in range(3)]
            assert [(status, headers["x-path"]) for status, headers, _ in found] == [
                (200, "/wait"),
                (200, "/1"),
                (503, "/refuse"),
            ]
            writer.write(b"}")
            status, headers, _ = await answer_of(reader)
            assert (status, headers["x-path"]) == (200, "/2")

    run(work)


def test_who_asks_before_he_sends_hears_it_at_the_headers() -> None:
    async def work(world: World) -> None:
        asks = b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
        async with world.client() as (reader, writer):
            writer.write(post("/", asks))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"{}")
            assert (await answer_of(reader))[0] == 200
            writer.write(post("/refuse", asks))
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (503, "close"), "the body is never sent"
            assert await reader.read() == b""

    run(work)


def test_who_is_refused_before_his_body_came_hears_it_when_he_has_sent_it() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/refuse", b"Content-Length: 500000\r\n\r\n"))
            await until(lambda: world.asked)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
            writer.write(b"x" * 500_000)
            status, headers, _ = await answer_of(reader)
            assert (status, headers.get("connection")) == (503, None), "and the connection lives on"
            writer.write(post("/", JSON))
            assert (await answer_of(reader))[0] == 200

    run(work)


@pytest.mark.parametrize("sent", [b"x", b"x" * (2 << 20)])
def test_a_refused_body_that_does_not_end_is_not_waited_for(sent: bytes) -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/refuse", b"Content-Length: 30000000\r\n\r\n") + sent)
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (503, "close")
            assert await reader.read() == b""

    run(work)


def test_a_body_may_be_refused_while_it_comes() -> None:
    async def work(world: World) -> None:
        world.room.left = 1000
        async with world.client() as (reader, writer):
            writer.write(post("/", b"Transfer-Encoding: chunked\r\n\r\n"))
            for _ in range(3):
                writer.write(b"258\r\n" + b"x" * 600 + b"\r\n")
                await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")
            assert (await answer_of(reader))[0] == 503
        assert world.room.left == 1000

    run(work)


def test_a_body_that_is_too_big_is_refused_at_its_length_or_when_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 1000)

    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/", b"Content-Length: 1001\r\n\r\n" + b"x" * 1001))
            assert (await answer_of(reader))[0] == 413
            writer.write(post("/", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"))
            assert (await answer_of(reader))[0] == 413
            writer.write(post("/", b"Content-Length: 1000\r\n\r\n" + b"x" * 1000))
            assert (await answer_of(reader))[0] == 200

    run(work)


def test_slow_senders_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nothing, of headers, and of a body; and who only keeps his connection too long."""
    for name in ("HEAD_S", "BODY_TIMEOUT_S", "IDLE_S"):
        monkeypatch.setattr(http1, name, 1.0)

    async def work(world: World) -> None:
        async with world.client() as (reader, _):
            assert await reader.read() == b""
        async with world.client() as (reader, writer):
            writer.write(post()[:20])
            assert (await answer_of(reader))[0] == 408
            assert await reader.read() == b""
        async with world.client() as (reader, writer):
            writer.write(post("/", JSON)[:-1])
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (408, "close")
            assert await reader.read() == b""
        async with world.client() as (reader, writer):
            writer.write(post("/", JSON))
            assert (await answer_of(reader))[0] == 200
            assert await reader.read() == b""

    run(work)


def test_headers_that_come_byte_by_byte_have_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_S", 1.0)

    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/", JSON))
            await answer_of(reader)
            answer = asyncio.ensure_future(answer_of(reader))
            writer.write(post())
            while not answer.done():
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)
            assert answer.result()[0] == 408
        assert world.asked == ["POST /"]

    run(work)


def test_a_model_may_take_longer_than_a_client_may(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_TIMEOUT_S", "IDLE_S", "UNTAKEN_S"):
        monkeypatch.setattr(http1, name, 1.0)

    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/wait", JSON))
            await asyncio.sleep(2)
            world.gate.set()
            assert (await answer_of(reader))[0] == 200

    run(work)


def test_who_does_not_take_his_answers_is_read_no_more_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNTAKEN_S", 0.5)

    async def work(world: World) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", world.port))
            one = post("/", b"X-Answer: 1000000\r\n" + JSON)
            with contextlib.suppress(ConnectionError):
                while True:
                    await loop.sock_sendall(client, one)
                    await asyncio.sleep(0.005)
        assert len(world.asked) < 50

    run(work)


def test_answers_that_nobody_takes_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNTAKEN", 12_000_000)

    async def work(world: World) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as clients:
            for _ in range(6):
                client = clients.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", world.port))
                await loop.sock_sendall(client, post("/", b"X-Answer: 9000000\r\n" + JSON))
            await until(lambda: len(world.answered) == 6 and world.listener.untaken < 12_000_000)
            assert len(world.listener.connections) < 6
            assert world.listener.untaken > 0
        await until(lambda: world.listener.untaken == 0)
        async with world.client() as (reader, writer):
            writer.write(post("/", b"X-Answer: 9000000\r\n" + JSON))
            assert (await answer_of(reader))[0] == 200

    run(work)


def test_more_than_may_be_here_wait_for_a_place() -> None:
    async def work(world: World) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(world.client()) for _ in range(14)]
            for _, writer in clients:
                writer.write(post("/", JSON))
            closed = 0
            for reader, writer in clients:
                status, headers, _ = await answer_of(reader)
                assert status == 200
                closed += headers.get("connection") == "close"
                writer.close()
            assert closed, "who was answered while others waited has to leave"
        async with world.client() as (reader, writer):
            writer.write(post("/", JSON))
            assert (await answer_of(reader))[0] == 200

    run(work)


def test_half_a_connection_is_enough_for_the_answer() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/wait", JSON))
            writer.write_eof()
            await until(lambda: world.asked)
            await asyncio.sleep(0.05)
            world.gate.set()
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (200, "close")
        async with world.client() as (reader, writer):
            writer.write(post("/", JSON)[:-1])
            writer.write_eof()
            assert (await answer_of(reader))[0] == 400

    run(work)


def test_who_goes_away_leaves_nothing_behind() -> None:
    async def work(world: World) -> None:
        for path, sent in (
            ("/", b"Content-Length: 9\r\n\r\n{}"),
            ("/wait", JSON),
            ("/early", b"Content-Length: 9\r\n\r\n{"),
        ):
            async with world.client() as (_, writer):
                writer.write(post(path, sent))
                await until(lambda path=path: f"POST {path}" in world.asked)
                writer.transport.abort()
        world.gate.set()
        await until(lambda: not world.listener.connections)
        await until(lambda: sorted(world.answered) == ["/", "/early", "/wait"])
        assert world.room.left == bodies.ROOM

    run(work)


def test_old_clients_and_those_that_want_no_body() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(b"GET /a HTTP/1.0\r\n\r\n")
            assert (await answer_of(reader))[2] == b"/a"
            assert await reader.read() == b""
        async with world.client() as (reader, writer):
            writer.write(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await answer_of(reader))[1]["connection"] == "keep-alive"
            writer.write(b"HEAD /abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            _, headers, _ = await answer_of(reader, head_only=True)
            assert headers["content-length"] == "4"
            assert await reader.read() == b""

    run(work)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (post("/", b"X: " + b"y" * 70_000 + b"\r\n" + JSON), 431),
        (post("/", b"X: y\r\n" * 20_000 + JSON), 431),
        (post("/", b"".join(b"X-%d: y\r\n" % n for n in range(101)) + JSON), 431),
        (post("/", b"Host: y\r\n" + JSON), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (post("/", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (post("/", b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"), 400),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("size", [1 << 20, 500])
def test_what_is_too_big_or_broken_is_refused_by_its_name_and_ends_the_connection(
    sent: bytes, status: int, size: int
) -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(sent), size):
                    writer.write(sent[at : at + size])
                    await writer.drain()
            found, headers, body = await answer_of(reader)
            assert (found, headers["connection"]) == (status, "close")
            assert body
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""

    run(work)


def test_what_was_asked_before_the_rubbish_is_answered() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/wait", JSON) + b"rubbish\r\n\r\n")
            await until(lambda: world.asked)
            world.gate.set()
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await reader.read() == b""

    run(work)


def test_who_would_speak_something_else_is_answered_and_has_to_leave() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nmore")
            status, headers, body = await answer_of(reader)
            assert (status, headers["connection"], body) == (200, "close", b"/a")

    run(work)


@pytest.mark.parametrize("size", [1 << 20, 9])
@pytest.mark.parametrize("body", [JSON, b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"])
def test_a_wish_to_speak_something_else_loses_no_body(body: bytes, size: int) -> None:
    """As Java's own client sends with every first request."""

    async def work(world: World) -> None:
        sent = post("/up", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + body) + post("/next", JSON)
        async with world.client() as (reader, writer):
            for at in range(0, len(sent), size):
                writer.write(sent[at : at + size])
                await asyncio.sleep(0)
            assert (await answer_of(reader))[2] == b"{}"
            assert (await answer_of(reader))[1]["x-path"] == "/next"

    run(work)


@pytest.mark.parametrize("last", [b"Connection: Upgrade, close\r\n", b"Connection: Upgrade\r\nConnection: close\r\n"])
def test_who_leaves_after_his_answer_leaves_also_if_he_would_speak_something_else(last: bytes) -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/up", last + b"Upgrade: h2c\r\n" + JSON))
            assert (await answer_of(reader))[1]["connection"] == "close"
            assert await reader.read() == b""

    run(work)


def test_what_is_beside_a_body_has_a_limit() -> None:
    async def work(world: World) -> None:
        for beside, more in ((b"0\r\nX-Trailer: ", b"y"), (b"1;", b"y"), (b"", b"1\r\ny\r\n")):
            async with world.client() as (reader, writer):
                writer.write(post("/", b"Transfer-Encoding: chunked\r\n\r\n"))
                await asyncio.sleep(0.05)
                writer.write(beside)
                with contextlib.suppress(ConnectionError):
                    for _ in range(40):
                        writer.write(more * 10_000)
                        await asyncio.sleep(0.001)
                assert (await answer_of(reader))[0] == 400

    run(work)


def test_a_body_in_many_small_chunks_is_taken() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/", b"Transfer-Encoding: chunked\r\n\r\n"))
            for _ in range(200):
                writer.write(b"a\r\n0123456789\r\n" * 100)
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
            status, _, body = await answer_of(reader)
            assert (status, len(body)) == (200, 200_000)

    run(work)


def test_of_those_that_come_at_once_only_so_many_are_held() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n\r\n" * 5000)
            found = []
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    found.append((await answer_of(reader))[1].get("connection"))
            assert len(found) == http1.MAX_AHEAD + 1
            assert found[-1] == "close"

    run(work)


def test_each_of_those_that_come_at_once_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_TIMEOUT_S", "IDLE_S"):
        monkeypatch.setattr(http1, name, 1.0)

    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/slow", JSON) * 5)
            assert [(await answer_of(reader))[0] for _ in range(5)] == [200] * 5
            writer.write(post("/", JSON))
            assert (await answer_of(reader))[0] == 200, "and it is read again"

    run(work)


def test_a_body_that_nobody_waits_for_yet_is_not_taken() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer):
            writer.write(post("/early", b"Content-Length: 20000000\r\n\r\n") + b"x" * 20_000_000)
            await until(lambda: world.requests)
            await asyncio.sleep(0.3)
            assert world.requests[0].body.size < 1 << 20
            world.gate.set()
            assert len((await answer_of(reader))[2]) == 20_000_000

    run(work)


def test_the_end_waits_for_what_is_under_way_and_for_nothing_else() -> None:
    async def work(world: World) -> None:
        async with world.client() as (reader, writer), world.client() as (idle, _):
            writer.write(post("/wait", JSON))
            await until(lambda: world.asked and len(world.listener.connections) == 2)
            closing = asyncio.ensure_future(world.listener.close(30))
            assert await idle.read() == b""
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", world.port)
            assert not closing.done()
            world.gate.set()
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (200, "close")
            await closing

    run(work)


def test_the_end_is_not_waited_for_without_end() -> None:
    async def work(world: World) -> None:
        async with world.client() as (_, writer):
            writer.write(post("/wait", JSON))
            await until(lambda: world.asked)
            await world.listener.close(0.2)
            assert world.listener.connections
        world.gate.set()
        await until(lambda: not world.listener.connections)

    run(work)
