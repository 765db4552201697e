"""Fixtures that many tests share: a real S3 server, started once per test process, and a quiet environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightshift.stack import s3 as s3_server
from nightshift.stack.processes import Processes, free_ports


@dataclass(frozen=True)
class S3:
    """What a test needs of the server: ``url``, ``environment(identity)``, ``client(identity)``, the buckets' names."""

    server: s3_server.S3Server
    landing: str = s3_server.LANDING
    work: str = s3_server.WORK
    registry: str = s3_server.REGISTRY
    keys: str = s3_server.KEYS
    served: str = s3_server.SERVED

    @property
    def url(self) -> str:
        return self.server.url

    def environment(self, identity: str = "worker") -> dict[str, str]:
        """AWS_* and NIGHTSHIFT_WORK, _REGISTRY, _KEYS, _SERVED for one of ``s3_server.IDENTITIES``."""
        return self.server.environment(identity)

    def client(self, identity: str = "admin") -> Any:
        return self.server.client(identity)

    def empty(self) -> None:
        """Empties the buckets (DVC's empty listing stays)."""
        client = self.client()
        for bucket in s3_server.BUCKETS:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
                keys = [key for key in keys if key["Key"] != s3_server.EMPTY_LISTING_KEY]
                if keys:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": keys})


def make_s3(folder: Path) -> s3_server.S3Server:
    """A server of its own in ``folder``, on ports free now, not started yet."""
    port, *inner = free_ports(1 + len(s3_server.INNER_PORTS))
    inner_ports = dict(zip(s3_server.INNER_PORTS, inner, strict=True))
    return s3_server.S3Server(folder / "s3", port, inner_ports, s3_server.new_secrets())


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real SeaweedFS with all buckets and all identities; shared, so name your keys after your test."""
    home = tmp_path_factory.mktemp("s3")
    processes, server = Processes(home), make_s3(home)
    server.start(processes)
    yield S3(server)
    processes.stop("s3")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the person who runs it."""
    for name in list(os.environ):
        if name.startswith(("NIGHTSHIFT_", "AWS_", "AIRFLOW_")):
            monkeypatch.delenv(name)
