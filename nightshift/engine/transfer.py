"""What ``dvc pull`` and ``dvc push`` of a stage's inputs and outputs would move, without their start and without trust.

Objects go from the remote into the shared cache of this machine and from there into the workspace, and back from the
cache, where DVC commits outputs, to the remote. Every object's digest is taken each time; what the other side has is
not moved. The layout is DVC's own: ``files/md5/xx/…``, a folder's listing after all its files.
"""

import errno
import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from nightshift.engine.key import file_md5
from nightshift.engine.objects import Objects
from nightshift.engine.report import say
from nightshift.errors import NightshiftError

THREADS = 8
CLONE = 0x40049409  # Linux's FICLONE: a copy that shares its blocks until one side changes
BLOCK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(
    objects: Objects, inputs: Mapping[str, str], root: Path, scratch: Path, executable: Iterable[str] = ()
) -> None:
    """Bring files and folders (path to md5) into the workspace ``root``, each with a copy in the shared cache.

    Args:
        scratch: a folder of this attempt on the disk of the cache, for what is not whole yet.
        executable: those of the paths that are executable files.

    Raises:
        NightshiftError: an object is nowhere, or wrong in the remote; or the disk is full. A wrong object of the cache
            is fetched again.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        files: dict[Path, str] = {}
        for path, name in inputs.items():
            if name.endswith(".dir"):
                (root / path).mkdir(parents=True, exist_ok=True)
                files |= {root / path / member: md5 for member, md5 in _listing(objects, name, scratch).items()}
            else:
                files[root / path] = name
        absent = {name for name in files.values() if not objects.path(name).exists()}
        say(f"its inputs: {len(files)} files, {len(absent)} fetched from {objects.url}, the others in the cache here")
        _all(lambda name: _cached(objects, name, scratch), sorted(absent))
        _all(lambda file: _place(objects, files[file], file, scratch), sorted(files))
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NightshiftError(
            f"the disk of {scratch} is full ({free(scratch)}): the inputs take "
            f"{sum(objects.size(name) for name in {*files.values()}) / 1e6:,.1f} MB in the cache and as much beside it",
            "free space there, or set NIGHTSHIFT_HOME to a folder of a larger disk, and clear the task",
        ) from error
    for path in executable:
        if (root / path).is_file():
            (root / path).chmod((root / path).stat().st_mode | 0o100)


def push(objects: Objects, names: Iterable[str]) -> None:
    """Put what the remote lacks of these files and folders, out of the shared cache; a folder's listing comes last.

    Raises:
        NightshiftError: the cache has not what DVC committed to it.
    """
    wanted = set(names)
    listings = {name for name in wanted if name.endswith(".dir")}
    files = (wanted - listings).union(*(objects.members(name).values() for name in listings))
    sent = _all(lambda name: _put(objects, name), sorted(files))
    sent += _all(lambda name: _put(objects, name), sorted(listings))
    say(f"its outputs: {len(sent)} objects, {sent.count(True)} put to {objects.url}, which had the others")


def free(folder: Path) -> str:
    """How much space the disk of a folder has, for people."""
    return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free"


def _listing(objects: Objects, name: str, scratch: Path) -> dict[str, str]:
    _place(objects, name, scratch / "listings" / name, scratch)
    members = {entry["relpath"]: entry["md5"] for entry in json.loads((scratch / "listings" / name).read_bytes())}
    if wrong := [path for path in members if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts]:
        raise NightshiftError(f"the listing {name} of {objects.url} names {wrong[0]!r}", "find out who made it")
    return members


def _cached(objects: Objects, name: str, scratch: Path) -> None:
    """The shared cache has this object; when it has to come from the remote, it is right."""
    target = objects.path(name)
    if target.exists():
        return
    coming = scratch / "coming" / f"{name}.{secrets.token_hex(4)}"
    objects.download(name, coming)
    coming.chmod(0o444)  # as DVC protects its cache
    target.parent.mkdir(parents=True, exist_ok=True)
    coming.replace(target)


def _place(objects: Objects, name: str, file: Path, scratch: Path) -> None:
    """A copy of a cached object as ``file``; one that is wrong in the cache is fetched again."""
    for _ in range(2):
        _cached(objects, name, scratch)
        if _copy(objects.path(name), file) == name.removesuffix(".dir"):
            return
        say(f"object {name} in the cache {objects.cache} is not what its name says: fetched again")
        objects.path(name).unlink(missing_ok=True)
    raise NightshiftError(f"object {name} does not stay what it is in {objects.cache}", "check the disk of that folder")


def _copy(source: Path, target: Path) -> str:
    """Copy a file, sharing its blocks where the file system can; the md5 of the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reading, target.open("w+b") as writing:
        if _cloned(reading, writing):
            return hashlib.file_digest(writing, _md5).hexdigest()
        found = _md5()
        while block := reading.read(BLOCK):
            found.update(block)
            writing.write(block)
        return found.hexdigest()


def _cloned(source: BinaryIO, target: BinaryIO) -> bool:
    try:
        fcntl.ioctl(target.fileno(), CLONE, source.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise
        return False
    return True


def _put(objects: Objects, name: str) -> bool:
    """Put a cached object, unless the remote has it; whether it was put."""
    file = objects.path(name)
    if not file.exists():
        if objects.exists(name):
            return False
        raise NightshiftError(f"the cache {objects.cache} has lost object {name}", "clear the task")
    if file_md5(file) != name.removesuffix(".dir"):
        file.unlink()
        raise NightshiftError(
            f"object {name} in the cache {objects.cache} was not what its name says, and is removed", "clear the task"
        )
    file.touch()  # an old object that is made again is young: housekeeping leaves it
    return objects.upload(name)


def _all(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call for each, several at a time; the first error ends it."""
    items = list(items)
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(call, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
