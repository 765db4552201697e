"""The store in an S3 bucket; what it promises stands in ``store``. botocore is imported when it is first used."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.releases.errors import StoreDenied, StoreUnavailable
from nightshift.releases.store import whole_file

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_s3 import S3Client


_AWS = "AWS S3"


class S3Store:
    """A store in a bucket. Endpoint, keys and region are boto3's own settings (AWS_ENDPOINT_URL, …).

    With a ``profile`` of ~/.aws they are that profile's and nothing of the environment; ``endpoint`` wins over both.
    """

    def __init__(self, bucket: str, prefix: str, endpoint: str | None = None, profile: str | None = None):
        self._endpoint, self._profile = endpoint, profile
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
            session = botocore.session.Session(profile=self._profile)
            if self._profile and not self._endpoint:
                self._endpoint = session.get_scoped_config().get("endpoint_url")
            made: Any = session.create_client(
                "s3",
                endpoint_url=self._endpoint,
                config=Config(
                    ignore_configured_endpoint_urls=self._profile is not None,  # type: ignore[call-arg]  # the stubs lack it
                    # Path style works with every server; a name per bucket needs DNS that SeaweedFS and others lack.
                    s3={"addressing_style": "auto" if self._where == _AWS else "path"},
                    retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or 3)},
                    connect_timeout=5,
                    read_timeout=60,
                ),
            )
            self._made = made
        return self._made

    @property
    def _where(self) -> str:
        return self._endpoint or (not self._profile and os.environ.get("AWS_ENDPOINT_URL")) or _AWS

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

        where = self._where
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
