"""The embedded S3 server, against the real program."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from nightshift.errors import NightshiftError
from nightshift.stack import s3 as s3_server
from nightshift.stack.processes import Processes
from tests.conftest import S3, make_s3


def refused(call, **arguments) -> int:
    """The status with which the server refused; 200 when it did not."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]
    return 200


def test_of_sixteen_create_only_writers_exactly_one_wins(s3: S3) -> None:
    client = s3.client("deployer")
    for turn in range(3):
        start = threading.Barrier(16)

        def write(number: int, key: str = f"race/{turn}", start: threading.Barrier = start) -> int:
            start.wait()
            return refused(client.put_object, Bucket=s3.registry, Key=key, Body=str(number).encode(), IfNoneMatch="*")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(write, range(16)))
        assert answers.count(200) == 1, answers
        assert set(answers) == {200, 412}
        winner = answers.index(200)
        assert client.get_object(Bucket=s3.registry, Key=f"race/{turn}")["Body"].read() == str(winner).encode()


@pytest.mark.parametrize(
    ("identity", "bucket", "reads", "writes"),
    [
        ("worker", s3_server.LANDING, True, False),
        ("worker", s3_server.WORK, True, True),
        ("worker", s3_server.REGISTRY, True, False),
        ("deployer", s3_server.LANDING, True, False),
        ("deployer", s3_server.WORK, True, True),
        ("deployer", s3_server.REGISTRY, True, True),
        ("endpoint", s3_server.LANDING, False, False),
        ("endpoint", s3_server.WORK, False, False),
        ("endpoint", s3_server.REGISTRY, True, False),
        ("endpoint", s3_server.KEYS, True, False),
        ("endpoint", s3_server.SERVED, True, True),
        ("keys", s3_server.KEYS, True, True),
        ("keys", s3_server.SERVED, True, False),
        ("keys", s3_server.REGISTRY, False, False),
        ("worker", s3_server.KEYS, False, False),
        ("worker", s3_server.SERVED, False, False),
        ("deployer", s3_server.KEYS, False, False),
        ("deployer", s3_server.SERVED, False, False),
        ("reader", s3_server.WORK, True, False),
        ("reader", s3_server.REGISTRY, False, False),
    ],
)
def test_an_identity_has_its_rights_and_no_more(s3: S3, identity: str, bucket: str, reads: bool, writes: bool) -> None:
    key = f"rights/{identity}"
    s3.client("admin").put_object(Bucket=bucket, Key=key, Body=b"x")
    client = s3.client(identity)
    assert refused(client.get_object, Bucket=bucket, Key=key) == (200 if reads else 403)
    assert refused(client.list_objects_v2, Bucket=bucket, Prefix="rights/") == (200 if reads else 403)
    assert refused(client.put_object, Bucket=bucket, Key=f"{key}/new", Body=b"y") == (200 if writes else 403)
    assert refused(client.delete_object, Bucket=bucket, Key=key) == (200 if writes else 403)


def test_only_admin_makes_buckets(s3: S3) -> None:
    for identity in ("worker", "deployer", "endpoint"):
        assert refused(s3.client(identity).create_bucket, Bucket=f"of-{identity}") == 403


def test_a_wrong_secret_is_refused(s3: S3) -> None:
    wrong = s3_server._client(s3.url, s3.environment("worker")["AWS_ACCESS_KEY_ID"], "wrong")
    assert refused(wrong.list_objects_v2, Bucket=s3.work) == 403
    nobody = s3_server._client(s3.url, "NOBODY", "wrong")
    assert refused(nobody.list_objects_v2, Bucket=s3.work) == 403


def test_the_listing_of_an_empty_folder_is_there_for_dvc(s3: S3) -> None:
    answer = s3.client("worker").get_object(Bucket=s3.work, Key="dvc/files/md5/d7/51713988987e9331980363e24189ce.dir")
    assert answer["Body"].read() == b"[]"


def test_a_server_that_lets_a_second_create_through_is_refused(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        """Forwards to the real server, but drops the condition, as some S3 servers do."""

        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def put_object(self, **arguments):
            arguments.pop("IfNoneMatch", None)
            return self.real.put_object(**arguments)

    real = s3_server._client
    monkeypatch.setattr(s3_server, "_client", lambda *how: Careless(real(*how)))
    with pytest.raises(NightshiftError, match="answered 200 to a second create-only write, not 412"):
        s3.server.self_check()


def test_objects_survive_a_kill_and_the_restart_keeps_the_keys(tmp_path: Path) -> None:
    processes, server = Processes(tmp_path), make_s3(tmp_path)
    server.start(processes)
    try:
        server.client("worker").put_object(Bucket=s3_server.WORK, Key="kept", Body=b"as it was")
        pid = processes.running("s3")
        assert pid is not None
        import psutil

        psutil.Process(pid).kill()
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
        assert processes.running("s3") is None
        server.start(processes)
        assert server.client("worker").get_object(Bucket=s3_server.WORK, Key="kept")["Body"].read() == b"as it was"
        assert (server.folder / "identities.json").stat().st_mode & 0o777 == 0o600
    finally:
        processes.stop("s3")


def test_a_server_of_an_older_version_is_started_again_with_the_identities_that_came(tmp_path: Path) -> None:
    processes, server = Processes(tmp_path), make_s3(tmp_path)
    older = {**server.secrets, "keys": {who: key for who, key in server.secrets["keys"].items() if who != "keys"}}
    replace(server, secrets=older).start(processes)
    try:
        assert not server.knows_everyone()
        processes.stop("s3")
        server.start(processes)
        assert server.knows_everyone()
        server.client("keys").put_object(Bucket=s3_server.KEYS, Key="new", Body=b"x")
    finally:
        processes.stop("s3")


def test_another_checkouts_server_is_not_taken_for_ours(s3: S3, tmp_path: Path) -> None:
    ours = s3_server.S3Server(tmp_path, s3.server.port, s3.server.inner_ports, s3_server.new_secrets())
    assert s3.server.is_ours()
    assert not ours.is_ours()
