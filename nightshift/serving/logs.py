"""What the endpoint says: one line for each request, and what it does of its own accord.

The event loop leaves a tuple in a bounded queue (0.3 µs); a thread makes lines of them, four times a second. When
nobody takes the lines any more (a full disk, a pipe that is not read) they are dropped and counted, and requests go on.
Never in a line: an API key, an input, an output.
"""

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import orjson

from nightshift.serving.call import Call

_WAITING = 20_000  # lines, about 10 MB
_EVERY_S = 0.25
_AT_ONCE = 4096  # bytes that a pipe takes whole, so that processes that share it do not mix their lines
_LONGEST_LINE = 1536
_LONGEST = 200  # characters of a fault: some quote what the client sent

log = logging.getLogger("nightshift.serving")


def set_up(level: str, as_json: bool | None, descriptor: int = 2) -> "AccessLog":
    """Where the process's log goes from now on. ``as_json`` None: text for a terminal, else one JSON object a line.

    ``level``: "debug" has successful questions without an inference too (health, metadata, metrics), "info" every
    inference and every refusal, "warning" only faults of this side and what needs a person.
    """
    as_json = not os.isatty(descriptor) if as_json is None else as_json
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    return AccessLog(logging.getLevelName(level.upper()), as_json, descriptor)


class AccessLog:
    """``watch`` is called by the event loop; one thread writes, from ``start`` until ``stop``."""

    def __init__(self, level: int, as_json: bool, descriptor: int):
        self.dropped = 0
        self._level = level
        self._line = _json if as_json else _text
        self._descriptor = descriptor
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write the log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left; not longer than a few seconds, in case nobody takes it."""
        self._stop.set()
        self._thread.join(5)

    def watch(self, call: Call) -> None:
        status = call.status
        level = logging.WARNING if status >= 500 else logging.INFO if status >= 400 or call.batch else logging.DEBUG
        if level < self._level:
            return
        if len(self._waiting) >= _WAITING:
            self.dropped += 1
            return
        model = call.model
        self._waiting.append(
            (
                time.time(),
                level,
                call.id,
                call.protocol,
                call.verb,
                model.name if model else None,
                model.digest if model else None,
                call.role or None,
                call.key,
                status,
                (time.perf_counter() - call.started) * 1000,
                call.items,
                call.received,
                call.sent,
                call.error or None,
            )
        )

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        while self._waiting:
            lines = [self._line(self._waiting.popleft())]
            size = len(lines[0])
            while self._waiting and size < _AT_ONCE - _LONGEST_LINE:
                lines.append(self._line(self._waiting.popleft()))
                size += len(lines[-1])
            data = memoryview(b"".join(lines))
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # whoever took the lines is gone, or its disk is full
                self.dropped += len(lines)


def _json(row: tuple[Any, ...]) -> bytes:
    (
        at,
        level,
        identity,
        protocol,
        verb,
        model,
        digest,
        role,
        key,
        status,
        milliseconds,
        items,
        received,
        sent,
        error,
    ) = row
    line = {
        "time": _iso(at),
        "level": logging.getLevelName(level).lower(),
        "message": "request",
        "id": identity,
        "protocol": protocol,
        "verb": verb,
        "model": model,
        "digest": digest,
        "role": role,
        "key": key,
        "status": status,
        "milliseconds": round(milliseconds, 3),
        "items": items,
        "received": received,
        "sent": sent,
        "error": error and _plain(error),
    }
    return orjson.dumps(
        {name: value for name, value in line.items() if value is not None}, option=orjson.OPT_APPEND_NEWLINE
    )


def _text(row: tuple[Any, ...]) -> bytes:
    at, level, identity, protocol, verb, model, digest, role, key, status, milliseconds, _, _, _, error = row
    words = [
        datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3],  # noqa: DTZ006 - a person's own clock
        logging.getLevelName(level),
        f"{protocol} {verb or '-'} {model or '-'}",
        *([digest[:12], role] if digest else []),
        f"{status} {milliseconds:.1f} ms id={identity}",
        *([f"key={key}"] if key else []),
        *([_plain(error)] if error else []),
    ]
    return (" ".join(words) + "\n").encode()


def _plain(text: str) -> str:
    """Short and in one line, whatever it quotes."""
    text = text[:_LONGEST]
    return text if text.isprintable() else ascii(text)[:_LONGEST]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _iso(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
