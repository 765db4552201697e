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
_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = "/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


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
    """One connection with one call under way. A call is done when its message and its trailers have come."""

    def __init__(self, headers: bytes, message: bytes, until: float, done: asyncio.Future):
        self._headers, self._message, self._until, self._done = headers, message, until, done
        self.seconds: list[float] = []
        self.failed = 0
        self._buffer = b""
        self._stream = -1
        self._connection_window = 65535
        self._stream_window = self._initial_window = 65535
        self._left = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        opening = _START + frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 30))
        self._transport.write(opening + frame(_WINDOW, 0, 0, (1 << 30).to_bytes(4, "big")))
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._done.done():
            self.failed += 1
            self._done.set_result(None)

    def _next(self) -> None:
        if time.perf_counter() > self._until:
            if not self._done.done():
                self._done.set_result(None)
            self._transport.close()
            return
        self._stream += 2
        self._answered, self._left, self._stream_window = False, self._message, self._initial_window
        self._started = time.perf_counter()
        self._send(frame(_HEADERS, _END_HEADERS, self._stream, self._headers))

    def _send(self, first: bytes = b"") -> None:
        size = min(len(self._left), self._connection_window, self._stream_window, 16384)
        if size > 0:
            part, self._left = self._left[:size], self._left[size:]
            self._connection_window -= size
            self._stream_window -= size
            first += frame(_DATA, 0 if self._left else _END_STREAM, self._stream, part)
        if first:
            self._transport.write(first)
        if size > 0 and self._left:
            self._send()

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
            if payload:
                size = len(payload).to_bytes(4, "big")
                self._transport.write(frame(_WINDOW, 0, 0, size))
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
            self._transport.close()
        if stream == self._stream and (kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM)):
            if self._answered:
                self.seconds.append(time.perf_counter() - self._started)
            else:
                self.failed += 1
            self._next()


async def load(port: int, connections: int, seconds: float, request: bytes, more: dict[str, str]) -> dict:
    """Requests answered and failed, and the latencies' seconds at 50 and 99 of 100."""
    loop = asyncio.get_running_loop()
    headers = header_block(port, more)
    message = b"\0" + len(request).to_bytes(4, "big") + request
    began = time.perf_counter()
    clients = []
    for _ in range(connections):
        client = Client(headers, message, began + seconds, loop.create_future())
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        clients.append(client)
    await asyncio.wait([client._done for client in clients], timeout=seconds + 30)
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
