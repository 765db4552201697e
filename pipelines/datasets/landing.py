"""The landing zone, seen from inside: its files can be listed and read, and nothing here can change them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAY = re.compile(r"date=(.*)")


class LandingError(Exception):
    """The landing zone cannot be read; the message names it and the next step."""


@dataclass(frozen=True, order=True)
class LandedFile:
    """One file of one day. ``etag`` changes when its bytes may have: S3's own, or a file's time of change."""

    name: str
    """Below the day's folder, with ``/``."""
    size: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """What is there: the files of each day, and what does not belong to any."""

    days: dict[str, list[LandedFile]]
    """By date, in order; a day's list is empty when only its folder is there."""
    strange: list[str]


class Folder:
    """A landing zone in a folder."""

    def __init__(self, root: Path):
        self.url = str(root)
        self._root = root.expanduser()

    def list(self) -> Listing:
        """Everything below the folder."""
        return _by_day(self._walk())

    def read(self, day: str, name: str) -> bytes:
        """The bytes of one file."""
        try:
            return (self._root / f"date={day}" / name).read_bytes()
        except OSError as error:
            raise LandingError(f"{self.url}/date={day}/{name} cannot be read: {error.strerror}") from None

    def _walk(self) -> Iterator[tuple[str, int, str]]:
        if not self._root.is_dir():
            raise LandingError(f"the landing zone {self.url} is not there: make that folder, or correct params.yaml")
        for path in self._root.rglob("*"):
            name = path.relative_to(self._root).as_posix()
            if path.is_dir():
                yield name + "/", 0, ""
            else:
                stat = path.stat()
                yield name, stat.st_size, str(stat.st_mtime_ns)


class Bucket:
    """A landing zone below a prefix of an S3 bucket; endpoint, keys and region are boto3's own settings."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self._bucket, prefix = parts.netloc, parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client()

    def list(self) -> Listing:
        """Everything below the prefix."""
        return _by_day(self._walk())

    def read(self, day: str, name: str) -> bytes:
        """The bytes of one file."""
        key = f"{self._prefix}date={day}/{name}"
        with _Sentence(f"{self.url}/date={day}/{name}"):
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def _walk(self) -> Iterator[tuple[str, int, str]]:
        with _Sentence(self.url):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"][len(self._prefix) :], item["Size"], item["ETag"].strip('"')


def open_landing(url: str) -> Folder | Bucket:
    """The landing zone at ``s3://bucket/prefix`` or in a folder."""
    return Bucket(url) if url.startswith("s3://") else Folder(Path(url))


def _by_day(entries: Iterator[tuple[str, int, str]]) -> Listing:
    days: dict[str, list[LandedFile]] = {}
    strange = []
    for path, size, etag in entries:
        top, _, name = path.partition("/")
        # As everywhere: what begins with a dot or an underscore is on its way, or another program's own.
        if any(part.startswith((".", "_")) for part in path.split("/")):
            continue
        found = DAY.fullmatch(top)
        if not found or not is_date(found[1]) or (not name and not path.endswith("/")):
            # Of what lies under a wrong name only its top is told, once; "" is the prefix's own marker.
            if top and top not in strange:
                strange.append(top)
            continue
        files = days.setdefault(found[1], [])
        if name and not name.endswith("/"):
            files.append(LandedFile(name, size, etag))
    return Listing({day: sorted(days[day]) for day in sorted(days)}, sorted(strange))


def is_date(text: str) -> bool:
    """Whether this is a day, written YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _client() -> "S3Client":
    import boto3  # half a second that a folder does not need
    from botocore.config import Config

    # A session of its own: the default one keeps the first keys that it ever saw.
    return boto3.Session().client(
        "s3",
        config=Config(
            # Path style works with every server; a name per bucket needs DNS that SeaweedFS and others lack.
            s3={"addressing_style": "path" if os.environ.get("AWS_ENDPOINT_URL") else "auto"},
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=60,
        ),
    )


class _Sentence:
    """Turns botocore's errors into one sentence that names the endpoint and the next step."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        where = os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"
        if isinstance(error, ClientError):
            code = error.response["Error"].get("Code", "")
            if code == "NoSuchBucket":
                raise LandingError(f"{self._what}: there is no such bucket at {where}: `make up` creates it") from None
            if code == "NoSuchKey":
                raise LandingError(f"{self._what} is gone since it was listed: run this again") from None
            raise LandingError(
                f"{self._what}: {where} refuses {error.operation_name} ({code}): use keys that may read it "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            ) from None
        if isinstance(error, NoCredentialsError):
            raise LandingError(f"{self._what}: no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
        # urllib3's own errors while a body is read come wrapped by botocore too.
        if isinstance(error, BotoCoreError):
            reason = str(error).splitlines()[0]
            raise LandingError(
                f"{self._what}: the S3 server at {where} does not answer ({reason}): start it (`make up`) or correct "
                "AWS_ENDPOINT_URL, and run this again; nothing was changed"
            ) from None
