"""What no gRPC client of good will sends: malformed messages by the thousand, broken HTTP/2, silence.

The frames are written by hand, because every HTTP/2 library keeps its user from sending these.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import grpc
import psutil
import pytest

from benchmarks.serving.grpc_load import frame, header_block
from nightshift.serving import inference_pb2
from nightshift.serving.grpc_server import _CALLS, HEALTH
from nightshift.serving.http2 import STREAMS
from nightshift.serving.listener import IDLE_S
from nightshift.serving.server import _GRPC_CONNECTIONS
from tests.serving.test_grpc import SERVICE, Client, image, infer
from tests.serving.world import ADMIN, Endpoint, World, wait_for

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW, CONTINUATION, UNKNOWN = 0, 1, 2, 3, 4, 6, 8, 9, 77
END_STREAM, END_HEADERS = 1, 4
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
NUMBERS = (0, 1, 2, 4, -1, 48, 2**31, 2**62, 2**63 - 1)
WORDS = ("", "toy", "image", "probabilities", "UINT8", "FP32", "BYTES", "nonsense", "\0", "ﬀ" * 500)
SCRAPS = (b"", b"\0", b"\xff" * 11, b"\x0a\xff\xff\xff\xff\x0f", b"\x3a\x00", b"\x12\x00" * 500, bytes(5000))
COUNT = 10_000
FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}


@pytest.fixture
def channel(served: tuple[World, Endpoint, str]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served[1].grpc_port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        yield channel


def test_no_malformed_message_is_our_fault_or_moves_memory(served, channel: grpc.Channel) -> None:
    process = psutil.Process(served[1].process.pid)
    rng = random.Random(7)
    seen: dict[str, int] = {}
    resident = 0
    for number in range(COUNT):
        if number == COUNT // 4:
            resident = process.memory_info().rss  # whatever grows once, has
        method, message = malformed(rng)
        stub = channel.unary_unary(SERVICE + method)
        try:
            stub(message, timeout=30)
            code, said = "OK", ""
        except grpc.RpcError as error:
            code, said = error.code().name, error.details()
        seen[code] = seen.get(code, 0) + 1
        assert code in FINE, (number, method, message[:2000], code, said)
    assert seen["INVALID_ARGUMENT"] > COUNT / 3, seen
    assert seen["OK"] > COUNT / 100, seen  # else nothing is known of what is nearly right
    assert process.memory_info().rss - resident < 40 << 20
    assert Client(channel).call("ModelInfer", **infer()).model_name == "toy"


def malformed(rng: random.Random) -> tuple[str, bytes]:
    """A method, and an inference for it with a few things changed in its fields or its bytes."""
    method = rng.choice(("ModelInfer",) * 8 + ("ModelMetadata", "ModelStatistics", "RepositoryIndex"))
    request = inference_pb2.ModelInferRequest(**infer())
    if rng.random() < 0.3:
        typed = {"contents": {"uint_contents": list(request.raw_input_contents[0])}}
        request = inference_pb2.ModelInferRequest(model_name="toy", inputs=[image(**typed)])
    for _ in range(rng.randint(0, 2)):
        spoil(rng, request)
    data = request.SerializeToString()
    if rng.random() < 0.4:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(SCRAPS) + data[at + rng.choice((0, 1, 1, 5, 10**6)) :]
    if rng.random() < 0.3 and data:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if rng.random() < 0.05:
        data = rng.randbytes(rng.randrange(300))
    return method, data


def spoil(rng: random.Random, request: inference_pb2.ModelInferRequest) -> None:
    """Change one thing in it."""
    (tensor, *_) = [*request.inputs, inference_pb2.ModelInferRequest.InferInputTensor()]
    word, number = rng.choice(WORDS), rng.choice(NUMBERS)
    match rng.randrange(12):
        case 0:
            request.model_name = word
        case 1:
            request.model_version = word
        case 2:
            tensor.name = word
        case 3:
            tensor.datatype = word
        case 4:
            tensor.shape.append(number)
        case 5 if tensor.shape:
            tensor.shape[rng.randrange(len(tensor.shape))] = number
        case 6:
            tensor.contents.fp32_contents.extend([float("nan")] * rng.randrange(60))
        case 7:
            tensor.contents.bytes_contents.append(word.encode())
        case 8:
            request.raw_input_contents.append(bytes(rng.choice((0, 47, 48, 49))))
        case 9:
            request.parameters[rng.choice(("timeout", word))].int64_param = number
        case 10:
            output = request.outputs.add(name=rng.choice(("probabilities", word)))
            output.parameters["classification"].int64_param = number
        case _:
            request.inputs.add().CopyFrom(tensor)


def field(name: bytes, value: bytes) -> bytes:
    """A header, shorter than 127 bytes each, as HPACK's literal that no table keeps."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = header_block(1, {})
BOMB = HEAD + b"\x40" + field(b"x-bomb", b"b" * 120)[1:] + b"\xbe" * 16000  # one entry of the table, named 16,000 times
BROKEN: dict[
    str, tuple[bytes, bytes]
] = {  # by its name: what opens the connection, and what then comes again and again
    "not HTTP/2": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 10_000),
    "rubbish": (OPENING, random.Random(3).randbytes(10_000)),
    "headers that never end": (
        OPENING + frame(HEADERS, 0, 1, HEAD),
        frame(CONTINUATION, 0, 1, field(b"x", b"y" * 100)) * 50,
    ),
    "headers of nothing that never end": (OPENING + frame(HEADERS, 0, 1, HEAD), frame(CONTINUATION, 0, 1, b"") * 500),
    "headers that become large": (OPENING, frame(HEADERS, END_HEADERS | END_STREAM, 1, BOMB[:16384])),
    "pings without end": (OPENING, frame(PING, 0, 0, b"12345678") * 500),
    "settings without end": (OPENING, frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 500),
    "priorities without end": (OPENING, frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 500),
    "frames of no known kind": (OPENING, frame(UNKNOWN, 0, 1, bytes(100)) * 100),
    "data of nothing": (OPENING + frame(HEADERS, END_HEADERS, 1, HEAD), frame(DATA, 0, 1, b"") * 500),
    "windows that overflow": (OPENING, frame(WINDOW, 0, 0, (2**31 - 1).to_bytes(4, "big")) * 10),
    "a frame beyond its limit": (OPENING, frame(DATA, 0, 1, bytes(1 << 20))),
}


@pytest.mark.parametrize("what", [*BROKEN, "calls taken back", "answers not taken"])
def test_broken_http2_keeps_nobody_out_and_leaves_nothing_behind(served, channel: grpc.Channel, what: str) -> None:
    endpoint: Endpoint = served[1]
    process = psutil.Process(endpoint.process.pid)
    good = Client(channel)
    assert good.call("ModelInfer", **infer()).model_name == "toy"
    resident, files = process.memory_info().rss, process.num_fds()
    patience = 1 if what == "answers not taken" else 0  # those are right calls, of which a busy machine has too many
    with sending(endpoint.grpc_port, what) as sent:
        wait_for(lambda: sum(sent) > 3, 30)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            wait_for(lambda: is_answered(good), patience)
    wait_for(lambda: process.num_fds() <= files, 10)
    assert process.memory_info().rss - resident < 40 << 20
    assert "request failed" not in endpoint.log.read_text()


def is_answered(good: Client) -> bool:
    """False for who is to ask again."""
    try:
        return good.call("ModelInfer", timeout=10, **infer()).model_name == "toy"
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE and "ask again" in error.details():
            return False
        raise


@contextmanager
def sending(port: int, what: str) -> Iterator[list[int]]:
    """Two who send it again and again, on a new connection when they are cut off; how many pieces each has sent."""
    over, sent = threading.Event(), [0, 0]

    def send(who: int) -> None:
        while not over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                for piece in pieces(what):
                    connection.sendall(piece)
                    sent[who] += 1
                    if over.is_set():
                        break

    threads = [threading.Thread(target=send, args=(who,), daemon=True) for who in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def pieces(what: str) -> Iterator[bytes]:
    """Of one connection, without end."""
    request = inference_pb2.ModelInferRequest(**infer()).SerializeToString()
    message = b"\0" + len(request).to_bytes(4, "big") + request
    if what in BROKEN:
        opening, again = BROKEN[what]
        yield opening
        while True:
            yield again
    no_answers = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    yield OPENING + (no_answers if what == "answers not taken" else b"")
    for stream in range(1, 1 << 30, 2):
        call = frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, message)
        yield call + (frame(RESET, 0, stream, (8).to_bytes(4, "big")) if what == "calls taken back" else b"")


def test_calls_beyond_those_that_may_be_under_way_are_refused_in_our_words_and_counted(
    served, channel: grpc.Channel
) -> None:
    endpoint: Endpoint = served[1]
    good, refused = Client(channel), []

    def is_let_in() -> bool:
        try:
            return good.call("ServerLive", {"x-request-id": "one-too-many"}).live
        except grpc.RpcError as error:
            refused.append((error.code().name, error.details()))
            return False

    begun = b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) for stream in range(1, 2 * STREAMS, 2))
    assert good.call("ModelInfer", **infer()).model_name == "toy"
    with ExitStack() as waiting:
        while is_let_in():  # a call whose message does not come is under way for ten seconds
            connection = waiting.enter_context(socket.create_connection(("127.0.0.1", endpoint.grpc_port), timeout=30))
            connection.sendall(OPENING + begun)
    wait_for(is_let_in, 30)
    assert set(refused) == {("UNAVAILABLE", f"{_CALLS} calls are under way already; ask again")}
    text = endpoint.client.get("/metrics", headers=ADMIN).text
    assert f'code="503",model="",protocol="grpc",role="",verb="live",version=""}} {len(refused)}.0' in text
    wait_for(lambda: "one-too-many" in endpoint.log.read_text())


@pytest.mark.long
def test_connections_that_ask_nothing_make_room_for_others(served, channel: grpc.Channel) -> None:
    """As many as there may be: who comes then waits until their time is over."""
    endpoint: Endpoint = served[1]
    with ExitStack() as idle:
        for _ in range(_GRPC_CONNECTIONS + 50):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", endpoint.grpc_port), timeout=30))
            connection.sendall(OPENING)
        began = time.monotonic()
        # A connection of its own: the channel has had one since before.
        late = idle.enter_context(
            grpc.insecure_channel(f"127.0.0.1:{endpoint.grpc_port}", [("grpc.use_local_subchannel_pool", 1)])
        )
        stub = late.unary_unary(f"/{HEALTH}/Check")
        stub(b"", timeout=2 * IDLE_S, wait_for_ready=True)
        waited = time.monotonic() - began
    assert waited > 0.5 * IDLE_S, "it was not kept out: this test proves nothing"
