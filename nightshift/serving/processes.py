"""Several processes on one port that act as one endpoint.

A parent forks the workers and does nothing else: it starts one that died again, hands on the signal to end, and goes
when they have gone. Every worker listens at the same port (SO_REUSEPORT), follows the ledger, and holds the models
itself. They meet in a folder that only this user can read:

    <number>.sock                      a worker's answers to the others, one JSON line for one word (``Peers.ask``)
    <model>.<sequence>.<number>        its vote on an order: loaded, or why it refuses it (``Peers.agree``)

Whatever must be true of the endpoint as a whole is asked of all: put a function into ``peers.answers`` under a word,
and ``await peers.ask(word)`` in any worker gives the list of what each answered.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

ASK_S = 2.0  # a worker that does not answer another for so long counts as silent
AGREE_S = 20.0  # how long a swap waits for the votes of the others
_DRAIN_S = 30.0
_YOUNG_S = 5.0  # a worker that ends sooner, before any other lived so long, will not do better the next time

log = logging.getLogger("nightshift.serving")


def endings() -> list[signal.Signals]:
    """The signals at which an endpoint answers what is under way and stops; of a terminal that goes too, unless it was
    started by nohup.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


class Peers:
    """The workers of one endpoint, as one of them sees them. Without a folder it is alone.

    ``number`` is its own, from 0; ``count`` is how many there are; ``again`` says that it takes a dead one's place.
    """

    def __init__(self, folder: Path | None = None, number: int = 0, count: int = 1, again: bool = False):
        self.folder = folder
        self.again = again
        self.number = number
        self.count = count
        self.answers: dict[str, Callable[[], Any]] = {}
        self._server: asyncio.Server | None = None  # kept: a server that nobody holds is collected, and closed

    async def listen(self) -> None:
        """Answer the others from now on, in this event loop."""
        if self.folder:
            path = self.folder / f"{self.number}.sock"
            path.unlink(missing_ok=True)  # of the worker that had this number and died
            self._server = await asyncio.start_unix_server(self._answer, path)

    async def ask(self, word: str) -> list[Any]:
        """What each worker answers, in the order of their numbers; None for one that is silent."""
        return list(await asyncio.gather(*(self._ask(number, word) for number in range(self.count))))

    def vote(self, model: str, sequence: int, fault: str = "") -> None:
        """Tell the others that this worker has loaded an order, or refuses it for a fault."""
        if self.folder:
            mine = self.folder / f"{model}.{sequence}.{self.number}"
            written = self.folder / f".{mine.name}"
            written.write_text(fault)
            written.rename(mine)

    def agree(self, model: str, sequence: int, fault: str = "", may_be_overtaken: bool = True) -> str | None:
        """Vote on an order, and wait for the others' votes.

        Returns the first fault that anyone found, "" when there is none, and None when another is at a newer order
        already: then read the ledger again. Who is silent for AGREE_S is not waited for. For the follower's thread.
        """
        if self.folder is None:
            return fault
        self.vote(model, sequence, fault)
        until = time.monotonic() + AGREE_S
        while True:
            votes = [self.folder / f"{model}.{sequence}.{number}" for number in range(self.count)]
            faults = [vote.read_text() for vote in votes if vote.exists()]
            if any(faults) or len(faults) == self.count or time.monotonic() > until:
                return next(filter(None, faults), "")
            if may_be_overtaken and _newest_vote(self.folder, model) > sequence:
                return None
            time.sleep(0.01)

    async def _ask(self, number: int, word: str) -> Any:
        if number == self.number:
            return self.answers[word]()
        folder = self.folder or Path()  # who is alone asks nobody else
        with contextlib.suppress(OSError, TimeoutError, orjson.JSONDecodeError):
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(folder / f"{number}.sock")
                try:
                    writer.write(f"{word}\n".encode())
                    return orjson.loads(await reader.read())
                finally:
                    writer.close()
        return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word = (await reader.readline()).decode().strip()
        try:
            writer.write(orjson.dumps(self.answers[word]()))
            await writer.drain()
        except Exception:
            log.exception("cannot answer %r to another process", word)
        finally:
            writer.close()


_DEEPEST = 60  # characters of the folder in which the sockets' folder is made


def run(count: int, work: Callable[[Peers], None]) -> int:
    """Do this work in so many processes until one of ``endings``; returns the exit status.

    ``work`` ends by itself at each of them. One process is this one, without a parent.
    """
    if count == 1:
        work(Peers())
        return 0
    # A socket's path holds 107 bytes (unix(7)); the place for temporary files may be deeper than that.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < _DEEPEST else "/tmp"  # noqa: S108 - made by mkdtemp
    folder = Path(tempfile.mkdtemp(prefix="nightshift-endpoint-", dir=short))
    try:
        return _Parent(folder, count, work).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _newest_vote(folder: Path, model: str) -> int:
    names = (path.name.rsplit(".", 2) for path in folder.glob(f"{model}.*.*"))
    return max((int(sequence) for name, sequence, _ in names if name == model), default=0)


class _Parent:
    def __init__(self, folder: Path, count: int, work: Callable[[Peers], None]):
        self.folder = folder
        self.count = count
        self.work = work
        self.workers: dict[int, tuple[int, float]] = {}  # by pid: the number, and when it was started
        self.stopping = False
        # Workers hold the reading end: it ends when the parent does, by kill -9 too, and then so do they.
        self.lifeline = os.pipe()

    def run(self) -> int:
        for number in endings():
            signal.signal(number, self._stop)
        for worker in range(self.count):
            self._start(worker)
        status, proven = 0, False
        while self.workers:
            pid, ended = os.waitpid(-1, 0)
            if pid not in self.workers:
                continue
            code = os.waitstatus_to_exitcode(ended)
            worker, started = self.workers.pop(pid)
            if self.stopping:
                status = status or int(code != 0)
                continue
            lived = time.monotonic() - started
            proven = proven or lived > _YOUNG_S
            if not proven:
                log.error("process %d of the endpoint ended with %d as it started", worker, code)
                self._stop()
                status = 1
                continue
            log.error("process %d of the endpoint (pid %d) ended with %d; it is started again", worker, pid, code)
            if lived < _YOUNG_S:
                time.sleep(1)
            self._start(worker, again=True)
        return status

    def _stop(self, *_: Any) -> None:
        self.stopping = True
        for pid in list(self.workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _start(self, number: int, again: bool = False) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_worker(number, again)
        self.workers[pid] = (number, time.monotonic())
        if self.stopping:
            self._stop()  # the signal came between the decision and the fork

    def _be_worker(self, number: int, again: bool) -> None:
        status = 1
        try:
            for ending in endings():
                signal.signal(ending, signal.SIG_DFL)
            reading, writing = self.lifeline
            os.close(writing)
            threading.Thread(target=_end_with_parent, args=(reading,), daemon=True).start()
            self.work(Peers(self.folder, number, self.count, again))
            status = 0
        except BaseException:
            log.exception("process %d of the endpoint failed", number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # what the parent would do at its end is not the worker's to do


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    log.error("the parent is gone: answering what is under way, then ending")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_DRAIN_S)
    os._exit(1)
