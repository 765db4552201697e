"""The store in an S3 bucket; what it promises stands in ``store``.

With obstore, a client in Rust: of what a short task costs, an AWS client in Python would be more than half.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.releases.errors import ReleaseError, StoreDenied, StoreUnavailable
from nightshift.releases.store import whole_file

if TYPE_CHECKING:
    from obstore.store import S3Store as Bucket

AWS = "AWS S3"
CHUNK = 1 << 20
ASKED_AGAIN = timedelta(minutes=10)
_importing = threading.Lock()
_pids: dict[str, int] = {}  # whose threads do the client's work; they do not come along at a fork
# Pauses grow from half a second to 15 s at most, so that 16 attempts outlast a server that is away for two minutes.
BACKOFF = {"init_backoff": timedelta(seconds=0.5), "base": 4, "max_backoff": timedelta(seconds=15)}


class S3Store:
    """A store in a bucket. Endpoint, keys and region are AWS's own settings (AWS_ENDPOINT_URL, …).

    With a ``profile`` of ~/.aws they are that profile's and nothing of the environment; ``endpoint`` wins over both.
    Many threads may use it, and no process that was forked after its first use.
    """

    def __init__(self, bucket: str, prefix: str, endpoint: str | None = None, profile: str | None = None):
        self._endpoint, self._profile = endpoint, profile
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._made: Bucket | None = None

    @property
    def _client(self) -> "Bucket":
        if _pids.setdefault("used", os.getpid()) != os.getpid():
            raise ReleaseError(
                f"{self.url} is asked by a process that was forked after S3 was used, and would wait for ever",
                "this is a mistake in Nightshift: fork first, or start the process anew",
            )
        if self._made is None:
            attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or 3)
            keys: dict[str, Any] = {}
            if self._profile or not os.environ.get("AWS_ACCESS_KEY_ID"):
                keys, configured = _keys(self._profile)
                self._endpoint = self._endpoint or (self._where if self._where != AWS else configured)
            self._made = _obstore().store.S3Store(
                self.bucket,
                # Path style works with every server; a name per bucket needs DNS that SeaweedFS and others lack.
                config={"virtual_hosted_style_request": True} if self._where == AWS else {"endpoint": self._where},
                client_options={
                    "allow_http": True,
                    "connect_timeout": timedelta(seconds=5),
                    "read_timeout": timedelta(seconds=60),
                    "timeout": timedelta(days=1),  # of a whole transfer: an object may be of any size
                    **_authority(os.environ.get("AWS_CA_BUNDLE")),
                },
                retry_config={"max_retries": attempts - 1, "retry_timeout": timedelta(minutes=5), "backoff": BACKOFF},
                **keys,
            )
        return self._made

    @property
    def _where(self) -> str:
        return self._endpoint or (not self._profile and os.environ.get("AWS_ENDPOINT_URL")) or AWS

    def get(self, key: str) -> bytes:
        with self._watch(key):
            return bytes(self._client.get(self.prefix + key).bytes())

    def put_new(self, key: str, data: bytes) -> bool:
        return self._put_new(key, data)

    def put(self, key: str, data: bytes) -> None:
        with self._watch(key):
            self._client.put(self.prefix + key, data, use_multipart=False)

    def folders(self, folder: str) -> "list[str]":
        with self._watch(folder):
            found = self._client.list_with_delimiter(self.prefix + folder)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def list(self, prefix: str) -> "list[str]":
        return sorted(self.written(prefix))

    def written(self, prefix: str) -> dict[str, datetime]:
        wanted = self.prefix + prefix
        with self._watch(prefix):
            # The client knows folders only: the characters after the last slash are compared here.
            items = (item for page in self._client.list(wanted.rpartition("/")[0] or None) for item in page)
            found = {item["path"]: item["last_modified"] for item in items if item["path"].startswith(wanted)}
        return {path[len(self.prefix) :]: at for path, at in found.items()}

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        try:
            with self._watch(key):
                return self._client.head(self.prefix + key)["size"]
        except KeyError:
            return None

    def delete(self, key: str) -> None:
        with self._watch(key):
            self._client.delete(self.prefix + key)

    def get_file(self, key: str, path: Path) -> None:
        with whole_file(path) as temporary, self._watch(key), temporary.open("wb") as file:
            for chunk in self._client.get(self.prefix + key).stream(CHUNK):
                file.write(chunk)

    def read(self, key: str) -> tuple[bytes, str]:
        with self._watch(key):
            answer = self._client.get(self.prefix + key)
            return bytes(answer.bytes()), answer.meta["e_tag"] or ""

    def swap(self, key: str, data: bytes, version: str | None) -> str | None:
        faults = _obstore().exceptions
        with self._watch(key):
            try:
                mode: Any = {"e_tag": version} if version else "create"
                return self._client.put(self.prefix + key, data, mode=mode)["e_tag"]
            except (faults.AlreadyExistsError, faults.PreconditionError, FileNotFoundError) as error:
                if _code(error) == "NoSuchBucket":
                    raise
        # Another's, or ours: an answer was lost, and the client asked again.
        try:
            found, now = self.read(key)
        except KeyError:
            return None
        return now if found == data else None

    def put_new_file(self, key: str, path: Path) -> bool:
        # One PUT, up to 5 GB: an upload in parts knows no If-None-Match.
        return self._put_new(key, path)

    def put_file(self, key: str, path: Path) -> None:
        with self._watch(key):
            self._client.put(self.prefix + key, path)

    def demand_write(self) -> None:
        key, nothing = "checks/nothing", '"00000000000000000000000000000000"'
        with self._watch(key):
            try:
                # On condition that an object that is not there is unchanged: who may write fails on the condition.
                self._client.put(self.prefix + key, b"", mode={"e_tag": nothing})
            except (_obstore().exceptions.PreconditionError, FileNotFoundError) as error:
                if _code(error) not in ("PreconditionFailed", "NoSuchKey"):
                    raise

    def _put_new(self, key: str, body: bytes | Path) -> bool:
        with self._watch(key):
            try:
                self._client.put(self.prefix + key, body, mode="create")
            except _obstore().exceptions.AlreadyExistsError:
                return False
        return True

    @contextmanager
    def _watch(self, key: str) -> Iterator[None]:
        faults, where = _obstore().exceptions, self._where
        try:
            yield
        except (FileNotFoundError, faults.BaseError) as error:
            code = _code(error)
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"there is no bucket {self.bucket} at {where}", "create it, or `make up`"
                ) from error
            if isinstance(error, FileNotFoundError):
                raise KeyError(key) from None
            denied = isinstance(error, faults.PermissionDeniedError | faults.UnauthenticatedError)
            if denied or code in ("401", "403", *DENIED):
                raise StoreDenied(
                    f"{where} refuses what was asked of {self.url}/{key}: {code}",
                    "use keys with the right for this bucket (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
                ) from error
            raise StoreUnavailable(
                f"{self.url} does not answer at {where}, asked for {key}: {_words(error)}",
                "start the S3 server (`make up`) or check its address",
            ) from error


DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")


def _obstore() -> Any:
    """The client's library. Its modules import each other: of two threads that are the first, one could get half."""
    with _importing:
        import obstore.exceptions
        import obstore.store
    return obstore


def _keys(profile: str | None) -> tuple[dict[str, Any], str | None]:
    """Keys and region of a profile, or what AWS's own tools find; and the profile's endpoint.

    The keys are asked for anew every few minutes: some come to an end.

    Raises:
        StoreDenied: there are none.
    """
    import botocore.session
    from botocore.exceptions import ProfileNotFound

    session = botocore.session.Session(profile=profile)
    try:
        found, settings = session.get_credentials(), session.get_scoped_config()
    except ProfileNotFound as error:
        raise StoreDenied(str(error), "name a profile of ~/.aws") from None
    if found is None:
        raise StoreDenied("there are no keys for S3", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

    def provide() -> dict[str, Any]:
        now = found.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + ASKED_AGAIN,
        }

    region = session.get_config_variable("region")
    keys = {"credential_provider": provide, **({"region": region} if region else {})}
    endpoint: str | None = settings.get("endpoint_url")
    if profile and not endpoint:  # and not that of the environment, which the client would read by itself
        endpoint = f"https://s3.{region or 'us-east-1'}.amazonaws.com"
    return keys, endpoint


def _authority(bundle: str | None) -> dict[str, bytes]:
    """Who may vouch for the server beside those that the system trusts."""
    if not bundle:
        return {}
    try:
        return {"root_certificate": Path(bundle).read_bytes()}
    except OSError as error:
        raise ReleaseError(f"AWS_CA_BUNDLE: {error}", "name a file of certificates, or unset it") from None


def _code(error: Exception) -> str:
    """The server's word for what is wrong, else the status of its answer."""
    text = str(error)
    # The second is how the answer to a removal, which is one of a list of them, is told.
    shapes = (r"<Code>(\w+)</Code>", r"\(code: (\w+)\)", r"status code: (\d+)")
    return next((found[1] for shape in shapes if (found := re.search(shape, text))), "")


def _words(error: Exception) -> str:
    """The first line of a client's long account."""
    return str(error).partition("\n")[0].strip()
