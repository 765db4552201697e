"""What the endpoint says: one line for each request, and what it does of its own accord.

The event loop makes the line (2 µs) and leaves it in a bounded queue; a thread writes, four times a second. Were the
lines made by the thread, it would take the interpreter from the requests of that moment, and one of fifty would wait
for a millisecond. When nobody takes the lines any more (a full disk, a pipe that is not read) they are dropped and
counted, and requests go on.
Never in a line: an API key, an input, an output.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

import orjson

from nightshift.serving.call import Call

_WAITING = 20_000  # lines, about 10 MB
_EVERY_S = 0.25
_AT_ONCE = 4096  # bytes that a pipe takes whole, so that processes that share it do not mix their lines
_LONGEST = 200  # characters of a fault: some quote what the client sent
_LEVELS = {level: logging.getLevelName(level).lower() for level in (logging.DEBUG, logging.INFO, logging.WARNING)}

log = logging.getLogger("nightshift.serving")


def set_up(level: str, as_json: bool | None, descriptor: int = 2) -> "AccessLog":
    """Where the process's log goes from now on. ``as_json`` None: text for a terminal, else one JSON object a line.

    ``level``: "debug" has successful questions without an inference too (health, metadata, metrics), "info" every
    inference and every refusal, "warning" only faults of this side and what needs a person.
    """
    if as_json is None:
        as_json = not os.isatty(descriptor)
    handler = _Handler(sys.stderr)
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
        self._waiting: deque[bytes] = deque()
        self._stop = threading.Event()
        self._torn = False  # the last that was written ends within a line
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
        self._waiting.append(self._line(call, level))

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        while self._waiting:
            lines = [self._waiting.popleft()]
            size = len(lines[0])
            while self._waiting and size + len(self._waiting[0]) <= _AT_ONCE:
                lines.append(self._waiting.popleft())
                size += len(lines[-1])
            data = memoryview((b"\n" if self._torn else b"") + b"".join(lines))
            try:
                while data:
                    written = os.write(self._descriptor, data)
                    self._torn = bytes(data[written - 1 : written]) != b"\n"
                    data = data[written:]
            except OSError:  # whoever took the lines is gone, or its disk is full
                self.dropped += len(lines)


def _json(call: Call, level: int) -> bytes:
    now, model = time.time(), call.model
    who = _who(
        call.protocol, call.verb, model.name if model else None, model.digest if model else "", call.role, call.key
    )
    fault = f',"error":{orjson.dumps(_plain(call.error)).decode()}' if call.error else ""
    # By hand at half the cost: what is not a number or plain by its nature was encoded above.
    return (
        f'{{"time":"{_iso(now)}","level":"{_LEVELS[level]}","message":"request","id":"{call.id}",{who},'
        f'"status":{call.status},"milliseconds":{call.seconds * 1000:.3f},'
        f'"items":{call.items},"received":{call.received},"sent":{call.sent}{fault}}}\n'
    ).encode()


@lru_cache(1000)
def _who(protocol: str, verb: str, model: str | None, digest: str, role: str, key: str | None) -> str:
    """The members of a line that many lines share."""
    said = {"protocol": protocol, "verb": verb}
    if model is not None:
        said |= {"model": model, "digest": digest} | ({"role": role} if role else {})
    if key is not None:
        said["key"] = key
    return orjson.dumps(said).decode()[1:-1]


def _text(call: Call, level: int) -> bytes:
    now, milliseconds = time.time(), call.seconds * 1000
    words = [
        f"{_second_here(int(now))},{int(now * 1000) % 1000:03d}",
        _LEVELS[level].upper(),
        f"{call.protocol} {call.verb or '-'} {call.model.name if call.model else '-'}",
        *([call.model.version, call.role] if call.model and call.role else []),
        f"{call.status} {milliseconds:.1f} ms id={call.id}",
        *([f"key={call.key}"] if call.key else []),
        *([_plain(call.error)] if call.error else []),
    ]
    return (" ".join(words) + "\n").encode()


def _plain(text: str) -> str:
    """Short and in one line, whatever it quotes."""
    text = text[:_LONGEST]
    return text if text.isprintable() else ascii(text)[:_LONGEST]


def _iso(at: float) -> str:
    return f"{_second(int(at))}.{int(at * 1000) % 1000:03d}Z"


@lru_cache(2)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(2)
def _second_here(at: int) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006 - a person's own clock


class _Handler(logging.StreamHandler[TextIO]):
    """Does not wait for a pipe that nobody reads: it is the event loop that would, and never stop."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _, free, _ = select.select([], [self.stream], [], _EVERY_S)
        except (OSError, ValueError):  # no descriptor below, as in a test
            free = [self.stream]
        if free:
            super().emit(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _iso(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
