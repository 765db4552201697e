"""Ports and secrets of a checkout: chosen once, kept, private."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.serving.keys import digest
from nightshift.stack.settings import Stack, find_root, inherited


def test_ports_and_secrets_are_chosen_once_and_kept(tmp_path: Path) -> None:
    first = Stack.load(tmp_path, {})
    assert [first.ports[name] for name in ("airflow", "s3", "endpoint", "grpc")] == [8080, 8333, 8000, 8001]
    assert len(set(first.ports.values())) == len(first.ports)
    again = Stack.load(tmp_path)
    assert again.ports == first.ports
    assert again.secrets == first.secrets


def test_secrets_are_random_per_checkout_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = Stack.load(tmp_path / "a", {}), Stack.load(tmp_path / "b", {})
    assert a.airflow_password != b.airflow_password
    assert a.environment("worker")["AWS_SECRET_ACCESS_KEY"] != b.environment("worker")["AWS_SECRET_ACCESS_KEY"]
    assert (a.home / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert a.home.stat().st_mode & 0o777 == 0o700


def test_a_port_variable_given_to_up_is_kept_for_later_commands(tmp_path: Path) -> None:
    Stack.load(tmp_path, {})
    moved = Stack.load(tmp_path, {"NIGHTSHIFT_S3_PORT": "9333"})
    assert moved.s3_url == "http://127.0.0.1:9333"
    assert Stack.load(tmp_path).environment("endpoint")["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9333"


@pytest.mark.parametrize("text", ["http", "0", "70000", "-1"])
def test_a_port_variable_that_is_no_port_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(NightshiftError, match=f"NIGHTSHIFT_S3_PORT is '{text}', not a port") as caught:
        Stack.load(tmp_path, {"NIGHTSHIFT_S3_PORT": text})
    assert caught.value.exit_code == 2


def test_two_services_on_one_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match="same port"):
        Stack.load(tmp_path, {"NIGHTSHIFT_S3_PORT": "8080"})


def test_an_inner_port_that_somebody_took_is_picked_anew(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", stack.ports["master.port"]))
        holder.listen()
        moved = stack.with_free(["master.port", "filer.port"])
    assert moved.ports["master.port"] != stack.ports["master.port"]
    assert moved.ports["filer.port"] == stack.ports["filer.port"]
    assert Stack.load(tmp_path).ports == moved.ports


def test_a_torn_secrets_file_is_named_and_not_replaced(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    (stack.home / "secrets.json").write_text("{")
    with pytest.raises(NightshiftError, match="is not readable JSON"):
        Stack.load(tmp_path)
    assert (stack.home / "secrets.json").read_text() == "{"


def test_a_later_version_adds_the_identities_that_it_wants_and_changes_none(tmp_path: Path) -> None:
    file = Stack.load(tmp_path, {}).home / "secrets.json"
    whole = json.loads(file.read_text())
    older = json.loads(file.read_text())
    del older["s3"]["keys"]["keys"]
    file.write_text(json.dumps(older))
    filled = Stack.load(tmp_path).secrets
    assert filled["s3"]["keys"].pop("keys")["secret"]
    assert filled["endpoint"]["key"].startswith("nsk_")
    assert filled == older
    assert set(whole["s3"]["keys"]) == set(json.loads(file.read_text())["s3"]["keys"])
    assert file.stat().st_mode & 0o777 == 0o600


def test_each_identity_has_keys_of_its_own(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    keys = {stack.environment(name)["AWS_ACCESS_KEY_ID"] for name in ("admin", "worker", "deployer", "endpoint")}
    assert len(keys) == 4


def test_the_endpoint_knows_the_digest_of_the_key_that_the_deployer_has(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    assert (
        digest(stack.environment("deployer")["NIGHTSHIFT_ENDPOINT_KEY"])
        == (stack.environment("endpoint")["NIGHTSHIFT_ENDPOINT_KEY_SHA256"])
    )
    for identity in ("worker", "endpoint", "keys", "reader"):
        assert stack.endpoint_key not in str(stack.environment(identity))


def test_the_secret_of_personal_data_is_made_once_and_reaches_those_who_run_tasks_alone(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    secret = stack.environment("worker")["NIGHTSHIFT_PERSONAL_SECRET"]
    assert len(secret) > 40
    assert Stack.load(tmp_path, {}).environment("worker")["NIGHTSHIFT_PERSONAL_SECRET"] == secret
    for identity in ("admin", "deployer", "endpoint", "keys", "reader"):
        assert secret not in str(stack.environment(identity))


def test_a_process_of_the_stack_inherits_no_key_of_the_persons_shell() -> None:
    shell = {
        "PATH": "/bin",
        "HOME": "/h",
        "AWS_SECRET_ACCESS_KEY": "x",
        "GITHUB_TOKEN": "y",
        "LC_ALL": "C",
        "AIRFLOW_HOME": "z",
    }
    assert set(inherited(shell)) == {"PATH", "HOME", "LC_ALL", "NO_PROXY", "no_proxy"}


def test_the_checkout_is_found_from_a_folder_inside_it_and_its_absence_is_told(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "dags").mkdir()
    assert find_root(tmp_path / "dags") == tmp_path.resolve()
    with pytest.raises(NightshiftError, match="not inside a Nightshift checkout"):
        find_root(Path("/"))


def test_ports_json_holds_nothing_but_numbers(tmp_path: Path) -> None:
    Stack.load(tmp_path, {})
    assert all(
        isinstance(port, int) for port in json.loads((tmp_path / ".nightshift" / "ports.json").read_text()).values()
    )
