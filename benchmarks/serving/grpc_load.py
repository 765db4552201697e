"""Load for a gRPC server: connections that each send one request again and again, as wrk does for HTTP.

The few HTTP/2 frames of a unary call, with their bytes made once, because a gRPC library as the client would cost more
CPU than most of the servers that are measured. It is no general client: it knows one request of at most 16 kB.

    python -m benchmarks.serving.grpc_load PORT CONNECTIONS SECONDS REQUEST_FILE [NAME=VALUE …]
"""

import asyncio
import json
import struct
import sys
import time
from pathlib import Path

import uvloop

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW_BYTES = 1 << 30  # of answers that may be under way
_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">HBBBI")  # three bytes of length, kind, flags, stream
PATH = "/inference.GRPCInferenceService/ModelInfer"


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return head(kind, flags, stream, len(payload)) + payload


def header_block(port: int, more: dict[str, str]) -> bytes:
    """A request's headers as literals that no table keeps (HPACK: 0x00, then lengths and bytes)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": PATH,
        ":authority": f"127.0.0.1:{port}",
        "te": "trailers",
        "content-type": "application/grpc",
        **more,
    }
    block = b""
    for name, value in fields.items():
        if len(name) > 126 or len(value) > 126:
            raise ValueError(f"{name} is too long for one byte of length")
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


class Client(asyncio.Protocol):
    """One connection with one call under way. A call is done when its message and its trailers have come.

    When the server says that it wants to close the connection, the next call goes over a new one.
    """

    def __init__(self, port: int, headers: bytes, message: bytes, until: float):
        self._port, self._headers, self._message, self._until = port, headers, message, until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seconds: list[float] = []
        self.failed = 0
        self._begin()

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    def _begin(self) -> None:
        self._buffer = b""
        self._stream = -1
        self._connection_window = 65535
        self._stream_window = self._initial_window = 65535
        self._left = b""
        self._answered = False
        self._taken = 0  # bytes of answers for which the server got no new window yet
        self._last = self._moves = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._begin()
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=0)  # so that uvloop sends at once, not when its turn ends
        opening = _START + frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW_BYTES))
        self._transport.write(opening + frame(_WINDOW, 0, 0, _WINDOW_BYTES.to_bytes(4, "big")))
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        if not (self._moves or self.done.done()):
            self.failed += 1
            self.done.set_result(None)

    def _next(self) -> None:
        if time.perf_counter() > self._until:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        if self._last:
            self._moves = True
            self._transport.close()
            self._connecting = asyncio.ensure_future(self.connect())
            return
        self._stream += 2
        self._answered, self._left, self._stream_window = False, self._message, self._initial_window
        self._started = time.perf_counter()
        self._send(head(_HEADERS, _END_HEADERS, self._stream, len(self._headers)), self._headers)

    def _send(self, *first: bytes) -> None:
        """What the windows let go, in one piece: of what comes in two the first may wake the server too soon."""
        pieces = list(first)
        while (size := min(len(self._left), self._connection_window, self._stream_window, 16384)) > 0:
            part, self._left = self._left[:size], self._left[size:]
            self._connection_window -= size
            self._stream_window -= size
            pieces += (head(_DATA, 0 if self._left else _END_STREAM, self._stream, size), part)
        if pieces:
            self._transport.write(b"".join(pieces))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) < end:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._frame(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : end])
            at = end
        self._buffer = buffer[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answered = self._answered or len(payload) > 5
            self._taken += len(payload)
            if self._taken > _WINDOW_BYTES // 2:  # as gRPC's own clients do: not for each answer
                self._transport.write(frame(_WINDOW, 0, 0, self._taken.to_bytes(4, "big")))
                self._taken = 0
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    self._stream_window += value - self._initial_window
                    self._initial_window = value
            self._transport.write(frame(_SETTINGS, _ACK, 0, b""))
            self._send()
        elif kind == _PING and not flags & _ACK:
            self._transport.write(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            if stream == 0:
                self._connection_window += int.from_bytes(payload, "big")
            elif stream == self._stream:
                self._stream_window += int.from_bytes(payload, "big")
            if self._left:
                self._send()
        elif kind == _GOAWAY:
            self._last = True
        if stream == self._stream and (kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM)):
            if self._answered:
                self.seconds.append(time.perf_counter() - self._started)
            else:
                self.failed += 1
            self._next()


async def load(port: int, connections: int, seconds: float, request: bytes, more: dict[str, str]) -> dict:
    """Requests answered and failed, and the latencies' seconds at 50 and 99 of 100."""
    headers = header_block(port, more)
    message = b"\0" + len(request).to_bytes(4, "big") + request
    began = time.perf_counter()
    clients = []
    for _ in range(connections):
        client = Client(port, headers, message, began + seconds)
        await client.connect()
        clients.append(client)
    await asyncio.wait([client.done for client in clients], timeout=seconds + 30)
    took = time.perf_counter() - began
    latencies = sorted(second for client in clients for second in client.seconds)
    count = len(latencies)
    return {
        "requests": count,
        "failed": sum(client.failed for client in clients),
        "seconds": took,
        "p50": latencies[count // 2] if count else None,
        "p99": latencies[min(count - 1, count * 99 // 100)] if count else None,
    }


if __name__ == "__main__":
    port, connections, seconds, file, *more = sys.argv[1:]
    headers = dict(item.split("=", 1) for item in more)
    found = uvloop.run(load(int(port), int(connections), float(seconds), Path(file).read_bytes(), headers))
    print(json.dumps(found))
