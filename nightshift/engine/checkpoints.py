"""What a long stage leaves behind so that its next attempt can go on, on whatever worker: in S3, under its inputs' key.

The stage knows a folder only, which ``NIGHTSHIFT_CHECKPOINTS`` names: it goes on from what is there. It writes a file
whole under ``tmp/`` of it and then renames it, and puts an empty file ``finished`` when its long work is done.

============================  ==========================================================================
key under checkpoints/<key>/  what
============================  ==========================================================================
<attempt>/<sha256>            a file's bytes; each attempt has names of its own, and removes only those
last.json                     path to object, size and sha256 of the newest files, put after all of them
============================  ==========================================================================
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nightshift.engine.report import say
from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import Store

VARIABLE = "NIGHTSHIFT_CHECKPOINTS"
FINISHED = "finished"
WRITING = "tmp"  # a folder in which files are being written


def key_of(inputs: Any) -> str:
    """The key of a stage that has no run-cache key, or of a rerun; ``inputs`` is all that decides its outputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def forget(store: Store, key: str) -> None:
    """Remove the checkpoints of a stage that is done."""
    # last.json first: a removal that stops half-way leaves nothing that looks like a checkpoint.
    for found in sorted(store.list(_prefix(key)), key=lambda found: not found.endswith("/last.json")):
        store.delete(found)


class Checkpoints:
    """The checkpoints of one key, and the folder in which one attempt of a stage finds and leaves them."""

    def __init__(self, store: Store, key: str, folder: Path):
        self.store = store
        self.prefix = _prefix(key)
        self.folder = folder
        self._attempt = secrets.token_hex(4)
        self._named: dict[str, dict[str, Any]] = {}  # path to object, as last.json has it
        self._kept: dict[str, tuple[int, ...]] = {}  # path to what the file looked like then

    def bring(self) -> None:
        """Fetch what an attempt with the same inputs left; what is not whole is refused, and the stage begins anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            last = self.store.get(f"{self.prefix}last.json")
        except KeyError:
            return
        try:
            named = json.loads(last)["files"]
            for path, file in named.items():
                self._fetch(path, file)
        except (KeyError, TypeError, ValueError) as error:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            say(f"the checkpoint {self.store.url}/{self.prefix} is refused, and the stage begins anew: {error}")
            return
        self._named, self._kept = named, self._looks()
        say(f"the checkpoint of an earlier attempt is here: {', '.join(sorted(named))}")

    def _fetch(self, path: str, file: Mapping[str, Any]) -> None:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"{path!r} is no name of a file")
        target = self.folder / pure
        self.store.get_file(self.prefix + file["object"], target)
        if (found := _sha256(target)) != file["sha256"]:
            raise ValueError(f"{path} has the digest {found}, not {file['sha256']}")

    @contextlib.contextmanager
    def kept(self, every_s: float) -> Iterator[None]:
        """While the stage runs: keep what is new every ``every_s`` seconds, at ``finished``, and when it fails."""
        stop = threading.Event()
        finished = (self.folder / FINISHED).exists()  # asked before the stage runs: a thread may start late
        watch = threading.Thread(target=self._watch, args=(every_s, stop, finished), daemon=True)
        watch.start()
        try:
            yield
        except BaseException:
            stop.set()
            watch.join()
            self._try_to_keep()
            raise
        finally:
            stop.set()
            watch.join()

    def _watch(self, every_s: float, stop: threading.Event, finished: bool) -> None:
        last = time.monotonic()
        while not stop.wait(min(1, every_s)):
            ends = not finished and (self.folder / FINISHED).exists()
            if ends or time.monotonic() - last >= every_s:
                self._try_to_keep()
                last, finished = time.monotonic(), finished or ends

    def _try_to_keep(self) -> None:
        try:
            self.keep()
        except (ReleaseError, OSError) as error:
            # The stage goes on; a later round keeps a newer one.
            say(f"no checkpoint was kept this time: {error}")

    def keep(self) -> None:
        """Put the files that are new, then name them all; nothing happens when nothing is new."""
        frozen = self.folder.with_name(f"{self.folder.name}.frozen")
        shutil.rmtree(frozen, ignore_errors=True)
        try:
            # Hard links: a file that the stage replaces meanwhile stays here as it was.
            for path in self._looks():
                (frozen / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / path, frozen / path)
            looks = {path: _look(frozen / path) for path in _files(frozen)}
            if not looks or looks == self._kept:
                return
            named = {path: self._put(path, frozen / path, look) for path, look in looks.items()}
            if any(_look(frozen / path) != look for path, look in looks.items()):
                return  # written in place: nobody knows which bytes went up
        finally:
            shutil.rmtree(frozen, ignore_errors=True)
        self.store.put(f"{self.prefix}last.json", json.dumps({"files": named}, indent=1).encode())
        before = {file["object"] for file in self._named.values()}
        self._named, self._kept = named, looks
        for old in before - {file["object"] for file in named.values()}:
            self.store.delete(self.prefix + old)
        say(f"checkpoint kept: {', '.join(sorted(named))}")

    def _put(self, path: str, file: Path, look: tuple[int, ...]) -> dict[str, Any]:
        known = self._named.get(path)
        if known and self._kept.get(path) == look:
            return known
        digest = _sha256(file)
        if known and known["sha256"] == digest:
            return known
        name = f"{self._attempt}/{digest}"
        self.store.put_file(self.prefix + name, file)
        return {"object": name, "size": file.stat().st_size, "sha256": digest}

    def _looks(self) -> dict[str, tuple[int, ...]]:
        return {path: _look(self.folder / path) for path in _files(self.folder)}


def _prefix(key: str) -> str:
    return f"checkpoints/{key}/"


def _files(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path.as_posix() for path in paths if WRITING not in path.parts[:-1])


def _look(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
