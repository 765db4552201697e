"""A store of small immutable objects: an S3 bucket (with a prefix) or a folder, with the same promises.

``put_new`` is the promise that everything rests on: of any number of writers of one key exactly one gets True, and a
reader sees the whole object or none. On S3 that is ``If-None-Match: *``, in a folder a hard link from a whole file.
``swap`` is the same for an object that changes: ``If-Match``, and in a folder a lock.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from nightshift.releases.errors import ReleaseError, StoreDenied, StoreUnavailable


class Store(Protocol):
    """Keys are relative POSIX paths; every method may raise StoreUnavailable."""

    url: str

    def get(self, key: str) -> bytes:
        """The object's bytes; KeyError when there is none."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object; False (and nothing changed) when one is there already."""

    def put(self, key: str, data: bytes) -> None:
        """Create or overwrite the object."""

    def folders(self, folder: str) -> "list[str]":
        """The folders directly in this one, sorted: one request for a thousand, however much is in them."""

    def list(self, prefix: str) -> "list[str]":
        """The keys that begin with these characters, sorted."""

    def written(self, prefix: str) -> "dict[str, datetime]":
        """The keys that begin with these characters, and when each was last put, by the store's clock."""

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int | None:
        """Bytes of the object; None when there is none."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""

    def get_file(self, key: str, path: Path) -> None:
        """Bring the object to a file, which appears whole or not at all; KeyError when there is none."""

    def read(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and its version; KeyError when there is none."""

    def swap(self, key: str, data: bytes, version: str | None) -> str | None:
        """Replace the object while it has this version (None: create it); its new version, or None (and nothing
        changed) when it has another by now. Bytes that nobody else writes make the answer certain."""

    def put_new_file(self, key: str, path: Path) -> bool:
        """As ``put_new``, from a file."""

    def put_file(self, key: str, path: Path) -> None:
        """As ``put``, from a file of any size."""

    def demand_write(self) -> None:
        """Raises StoreDenied when ``put`` would; writes nothing."""


def open_store(url: str, *, endpoint: str | None = None, profile: str | None = None) -> Store:
    """The store of ``s3://bucket[/prefix]`` or of a folder's path (which may not exist yet).

    A bucket is reached with the environment's endpoint and keys, or with those of another server or AWS profile.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ReleaseError(f"{url!r} names no bucket", "write it as s3://bucket or s3://bucket/prefix")
        from nightshift.releases.s3_store import S3Store

        return S3Store(parts.netloc, parts.path.strip("/"), endpoint, profile)
    if parts.scheme and "://" in url:
        raise ReleaseError(f"{url!r} is neither a bucket nor a folder", "use s3://bucket[/prefix] or a folder's path")
    return FolderStore(Path(url))


_TEMPORARY = ".tmp-"  # a file that is being written; never listed


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``target`` when all went well and is removed when not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=target.parent)
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


class FolderStore:
    """A store in a folder: for tests, for one machine, and for releases that are carried on a disk."""

    def __init__(self, root: Path):
        self.root = root
        self.url = str(root)

    def get(self, key: str) -> bytes:
        with self._watch():
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise KeyError(key) from None

    def put_new(self, key: str, data: bytes) -> bool:
        with self._watch():
            target = self._path(key)
            temporary = self._written(target, data)
            try:
                os.link(temporary, target)  # the one call that both creates whole and refuses to overwrite
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            return True

    def put(self, key: str, data: bytes) -> None:
        with self._watch():
            target = self._path(key)
            self._written(target, data).replace(target)

    def folders(self, folder: str) -> "list[str]":
        with self._watch():
            base = self.root / folder
            return sorted(entry.name for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []

    def list(self, prefix: str) -> "list[str]":
        with self._watch():
            base = self.root / prefix.rpartition("/")[0]
            found = []
            for folder, _, names in os.walk(base, onerror=_unless_missing):
                for name in names:
                    key = (Path(folder) / name).relative_to(self.root).as_posix()
                    if key.startswith(prefix) and not name.startswith(_TEMPORARY):
                        found.append(key)
            return sorted(found)

    def written(self, prefix: str) -> "dict[str, datetime]":
        return {key: datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC) for key in self.list(prefix)}

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int | None:
        return self._path(key).stat().st_size if self._path(key).is_file() else None

    def delete(self, key: str) -> None:
        with self._watch():
            self._path(key).unlink(missing_ok=True)

    def get_file(self, key: str, path: Path) -> None:
        source = self._path(key)
        if not source.is_file():
            raise KeyError(key)
        with whole_file(path) as temporary:
            shutil.copyfile(source, temporary)

    def read(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, _version(data)

    def swap(self, key: str, data: bytes, version: str | None) -> str | None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._watch(), (target.parent / f"{_TEMPORARY}lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # gone with the process, however it ends
            have = target.read_bytes() if target.exists() else None
            if (None if have is None else _version(have)) == version:
                self.put(key, data)
            elif have != data:
                return None
            return _version(data)

    def put_new_file(self, key: str, path: Path) -> bool:
        return self.put_new(key, path.read_bytes())

    def put_file(self, key: str, path: Path) -> None:
        with self._watch(), whole_file(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def demand_write(self) -> None:
        nearest = next(folder for folder in (self.root.absolute(), *self.root.absolute().parents) if folder.exists())
        if not os.access(nearest, os.W_OK):
            raise StoreDenied(f"no right to write in {nearest}, for {self.url}", "give this user the right")

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise ReleaseError(f"{key!r} is no key of {self.url}", "keys are relative paths without '..'")
        return self.root / key

    def _written(self, target: Path, data: bytes) -> Path:
        """A temporary file beside the target, whole and on the disk before it gets a name."""
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)

    @contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise StoreDenied(f"no right to use {error.filename} of {self.url}", "give this user the right") from error
        except OSError as error:
            raise StoreUnavailable(
                f"{self.url} does not answer: {error}", f"check the folder {self.url} and the free space of its disk"
            ) from error


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error  # os.walk would pass it over: a folder that cannot be read is not an empty one
