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
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from nightshift.releases.errors import ReleaseError, StoreDenied, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Store(Protocol):
    """Keys are relative POSIX paths; every method may raise StoreUnavailable."""

    url: str

    def get(self, key: str) -> bytes:
        """The object's bytes; KeyError when there is none."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Create the object; False (and nothing changed) when one is there already."""

    def put(self, key: str, data: bytes) -> None:
        """Create or overwrite the object."""

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


def open_store(url: str) -> Store:
    """The store of ``s3://bucket[/prefix]`` or of a folder's path (which may not exist yet)."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ReleaseError(f"{url!r} names no bucket", "write it as s3://bucket or s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"))
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


class S3Store:
    """A store in a bucket. Endpoint, keys and region are boto3's own settings (AWS_ENDPOINT_URL, …)."""

    def __init__(self, bucket: str, prefix: str):
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._made: S3Client | None = None

    @property
    def _client(self) -> "S3Client":
        if self._made is None:
            # Without boto3, whose own import would be a quarter of what an unchanged stage costs.
            import botocore.session
            from botocore.config import Config

            # A session of its own: a shared one keeps the keys that it saw first, whatever the environment says.
            made: Any = botocore.session.Session().create_client(
                "s3",
                config=Config(
                    # Path style works with every server; a name per bucket needs DNS that SeaweedFS and others lack.
                    s3={"addressing_style": "path" if os.environ.get("AWS_ENDPOINT_URL") else "auto"},
                    retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or 3)},
                    connect_timeout=5,
                    read_timeout=60,
                ),
            )
            self._made = made
        return self._made

    def get(self, key: str) -> bytes:
        with self._watch(key):
            return self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()

    def put_new(self, key: str, data: bytes) -> bool:
        return self._put_new(key, data)

    def put(self, key: str, data: bytes) -> None:
        with self._watch(key):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def list(self, prefix: str) -> "list[str]":
        return sorted(self.written(prefix))

    def written(self, prefix: str) -> "dict[str, datetime]":
        with self._watch(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            items = (item for page in pages for item in page.get("Contents", []))
            return {item["Key"][len(self.prefix) :]: item["LastModified"] for item in items}

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        try:
            with self._watch(key):
                return self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]
        except KeyError:
            return None

    def delete(self, key: str) -> None:
        with self._watch(key):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def get_file(self, key: str, path: Path) -> None:
        with whole_file(path) as temporary, self._watch(key), temporary.open("wb") as file:
            body = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
            shutil.copyfileobj(body, file, 1 << 20)

    def read(self, key: str) -> tuple[bytes, str]:
        with self._watch(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return answer["Body"].read(), answer["ETag"]

    def swap(self, key: str, data: bytes, version: str | None) -> str | None:
        from botocore.exceptions import ClientError

        put = partial(self._client.put_object, Bucket=self.bucket, Key=self.prefix + key, Body=data)
        with self._watch(key):
            try:
                return (put(IfMatch=version) if version else put(IfNoneMatch="*"))["ETag"]
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                    raise
        # Another's, or ours: an answer was lost, and the client asked again.
        try:
            found, now = self.read(key)
        except KeyError:
            return None
        return now if found == data else None

    def put_new_file(self, key: str, path: Path) -> bool:
        # One PUT, up to 5 GB: S3's managed multipart upload knows no If-None-Match.
        with path.open("rb") as file:
            return self._put_new(key, file)

    def put_file(self, key: str, path: Path) -> None:
        from s3transfer.manager import TransferManager  # parts and retries, for a file of any size

        with self._watch(key), path.open("rb") as file, TransferManager(self._client) as transfer:
            transfer.upload(file, self.bucket, self.prefix + key).result()

    def demand_write(self) -> None:
        from botocore.exceptions import ClientError

        key, nothing = "checks/nothing", '"00000000000000000000000000000000"'
        with self._watch(key):
            try:
                # On condition that an object that is not there is unchanged: who may write fails on the condition.
                self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=b"", IfMatch=nothing)
            except ClientError as error:
                if error.response["Error"].get("Code") not in ("PreconditionFailed", "NoSuchKey"):
                    raise

    def _put_new(self, key: str, body: Any) -> bool:
        from botocore.exceptions import ClientError

        with self._watch(key):
            try:
                self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=body, IfNoneMatch="*")
            except ClientError as error:
                # 409: another conditional write of this key was under way, and it may have failed.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 409 and not self.exists(key):
                    raise
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                    return False
                raise
        return True

    @contextmanager
    def _watch(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        where = os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"
        try:
            yield
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            code = error.response["Error"].get("Code", "")
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"there is no bucket {self.bucket} at {where}", "create it, or `make up`"
                ) from error
            if status == 404:
                raise KeyError(key) from None
            if status in (401, 403):
                raise StoreDenied(
                    f"{where} refuses {error.operation_name} on {self.url}/{key}: {code}",
                    "use keys with the right for this bucket (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
                ) from error
            raise StoreUnavailable(f"{self.url}/{key}: {error}", f"check the S3 server at {where}") from error
        except (BotoCoreError, HTTPClientError) as error:
            raise StoreUnavailable(
                f"{self.url} does not answer at {where}: {error}",
                "start the S3 server (`make up`) or check its address",
            ) from error
