"""How fast and how often a key may ask.

A rate is kept as one number a key: the time at which its bucket would be full again (the generic cell rate algorithm,
which is a token bucket without a refill). The numbers lie in a small file that all processes of one port map into
memory, so that a key has one rate, however the kernel spreads its connections. CLOCK_MONOTONIC is the same for all
processes of a machine and survives their restart.
"""

import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

_SLOT = struct.Struct("=8sd")  # of which key, and when its bucket is full again
_SLOTS = 4096  # 64 kB; keys with a rate, ever, on this machine
_SIZE = _SLOTS * _SLOT.size

log = logging.getLogger("nightshift.serving")


class Rates:
    """The buckets of one port. One thread of each process uses it: the lock is between processes.

    On a disk that is full or may not be written they are in this process's own memory.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._where: dict[str, int] = {}
        self._file: BinaryIO | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a+b")
            os.posix_fallocate(self._file.fileno(), 0, _SIZE)  # to write where the disk has no place kills the process
            self._map = mmap.mmap(self._file.fileno(), _SIZE)
        except OSError as error:
            log.warning("a key's rate is this process's own and is forgotten when it ends: %s: %s", file, error)
            if self._file is not None:
                self._file.close()
            self._file, self._map = None, mmap.mmap(-1, _SIZE)

    def take(self, name: str, per_second: float, at_once: int) -> float:
        """Take one; 0 when there was one, else the seconds until there is."""
        if self._file is None:
            return self._take(name, per_second, at_once)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # gone with the process, however it ends
        try:
            return self._take(name, per_second, at_once)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take(self, name: str, per_second: float, at_once: int) -> float:
        offset = self._where.get(name)
        if offset is None:
            offset = self._where[name] = self._slot(name)
        now, longest = self._clock(), at_once / per_second
        owner, full = _SLOT.unpack_from(self._map, offset)
        # A bucket that would take longer than it can is of before a restart of the machine.
        full = now if full < now or full > now + longest + 1 else full
        wait = full + 1 / per_second - longest - now
        if wait > 1e-9:
            return float(wait)
        _SLOT.pack_into(self._map, offset, owner, full + 1 / per_second)
        return 0.0

    def _slot(self, name: str) -> int:
        """The key's place: the first from its hash on that is its own or free; with all taken it shares one."""
        tag = blake2b(name.encode(), digest_size=8).digest()
        first = int.from_bytes(tag, "big") % _SLOTS
        for step in range(_SLOTS):
            offset = (first + step) % _SLOTS * _SLOT.size
            owner, _ = _SLOT.unpack_from(self._map, offset)
            if owner == tag:
                return offset
            if owner == bytes(8):
                _SLOT.pack_into(self._map, offset, tag, 0.0)
                return offset
        return first * _SLOT.size


class Spent:
    """What a key has used of its quota in the present day or month (UTC): by this process, and by all others."""

    def __init__(self, period: str, at: datetime):
        self.period = period
        self.begins, self.ends = bounds(period, at)
        self.own = 0
        self.others = 0

    def seconds_left(self, most: int, at: datetime) -> float:
        """Spend one; 0 when it was there, else the seconds until the next period begins."""
        # A clock that goes back stays in the period that has begun, so that nobody has a quota twice; unless it was far
        # ahead by mistake, or a key might wait for years.
        if not 2 * self.begins.timestamp() - self.ends.timestamp() <= at.timestamp() < self.ends.timestamp():
            self.begins, self.ends = bounds(self.period, at)
            self.own = self.others = 0
        if self.own + self.others >= most:
            return (self.ends - at).total_seconds()
        self.own += 1
        return 0.0

    def give_back(self) -> None:
        """A request that was not answered costs nothing."""
        self.own = max(self.own - 1, 0)


def bounds(period: str, at: datetime) -> tuple[datetime, datetime]:
    """When the day or month (UTC) of a time begins and ends."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day, day + timedelta(days=1)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)
