"""docker-compose.yml and the Dockerfiles: what holds for every service, without starting any."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nightshift.stack import compose, team

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ONCE = {"init", "nightshift"}  # what ends, and so is neither asked how it is nor started again for ever
OURS = {"nightshift-airflow:0.1.0", "nightshift-airflow-gpu:0.1.0", "nightshift-endpoint:0.1.0"}

each_service = pytest.mark.parametrize("name", SERVICES)
each_dockerfile = pytest.mark.parametrize("file", sorted((ROOT / "ops/docker").iterdir()), ids=lambda file: file.name)


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_file_is_what_the_compose_specification_describes():
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@each_dockerfile
def test_hadolint_has_nothing_to_say(file: Path):
    done = run(BIN / "hadolint", "--failure-threshold", "info", file)
    assert done.returncode == 0, done.stdout


@each_service
def test_a_service_is_watched_and_started_again(name: str):
    service = SERVICES[name]
    assert service["restart"] == ("unless-stopped" if name not in ONCE else service["restart"])
    assert ("disable" in service["healthcheck"]) == (name in ONCE)
    assert service["logging"]["options"]["max-size"], "its log would fill the disk"


@each_service
def test_a_service_gains_no_rights(name: str):
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not SERVICES[name].get("privileged")
    assert not [mount for mount in SERVICES[name].get("volumes", []) if "docker.sock" in mount]


@each_service
def test_an_image_is_pinned_to_a_release(name: str):
    image = SERVICES[name]["image"]
    assert image in OURS or re.fullmatch(r"[\w/]+:v?\d+\.\d+(\.\d+)?", image)


@each_dockerfile
def test_a_base_image_is_pinned_and_the_user_is_not_root(file: Path):
    text = file.read_text()
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases)
    assert re.findall(r"^USER (.+)$", text.rpartition("FROM ")[2], flags=re.MULTILINE) == ["10001"]


@each_service
def test_nothing_is_published_beyond_loopback_unless_asked(name: str):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith(("${NIGHTSHIFT_BIND:-127.0.0.1}:", "127.0.0.1:"))


def test_what_asks_for_no_password_is_never_published_beyond_loopback():
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:${NIGHTSHIFT_PROMETHEUS_PORT:-9090}:9090"]
    assert SERVICES["grafana"]["networks"] == ["watching"]
    assert {name for name in SERVICES if "watching" in SERVICES[name]["networks"]} == {"prometheus", "grafana"}


def test_seaweedfs_is_reached_through_its_s3_port_only():
    assert SERVICES["seaweedfs"]["networks"] == ["behind-s3"]
    assert "ports" not in SERVICES["seaweedfs"]
    assert {name for name in SERVICES if "behind-s3" in SERVICES[name]["networks"]} == {"seaweedfs", "s3"}
    assert re.findall(r"listen (\S+);", (ROOT / "ops/nginx/s3.conf").read_text()) == ["8333"]


def test_an_endpoint_sees_s3_and_the_balancer_and_no_part_of_airflow():
    for name in compose.REPLICAS:
        assert set(SERVICES[name]["networks"]) == {"store", "serving"}
        assert SERVICES[name]["read_only"] is True
    assert SERVICES["balancer"]["networks"] == ["serving"]


def test_every_replica_is_proved_and_balanced():
    image = SERVICES["endpoint-1"]["image"]
    assert tuple(name for name in SERVICES if SERVICES[name]["image"] == image) == compose.REPLICAS
    for port in (8000, 8001):
        balanced = re.findall(rf"server (\S+):{port} resolve", (ROOT / "ops/nginx/balancer.conf").read_text())
        assert tuple(balanced) == compose.REPLICAS


def test_the_workers_take_the_queues_that_tasks_are_sent_to():
    for name, queue in team.QUEUES.items():
        command = SERVICES[name]["command"]
        assert command[command.index("--queues") + 1] == queue


def test_only_the_worker_of_events_can_write_the_repository_and_no_worker_shares_a_home():
    mounts = {name: SERVICES[name].get("volumes", []) for name in SERVICES}
    writers = {name for name in mounts if "repository:/opt/nightshift/repository" in mounts[name]}
    assert writers == {"init", "events-worker"}
    homes = [m.partition(":")[0] for name in mounts for m in mounts[name] if m.endswith("/.nightshift")]
    assert len(homes) == len(set(homes))


def test_the_gpu_worker_starts_only_when_asked_and_reserves_a_gpu():
    worker = SERVICES["gpu-worker"]
    assert worker["profiles"] == ["gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_each_service_is_told_its_own_part_and_the_file_holds_no_secret(tmp_path: Path):
    compose.write(tmp_path, {})
    files = {path.name for path in (tmp_path / ".nightshift/team").iterdir()}
    used = set()
    for name, service in SERVICES.items():
        for file in service.get("env_file", []):
            prefix, _, leaf = file.rpartition("/")
            assert prefix == "${NIGHTSHIFT_TEAM:?run make env}"
            used.add(leaf)
            if name in team.SERVICES:
                assert leaf == f"{name}.env"
    assert used | {"secrets.json"} == files


@pytest.mark.skipif(
    not shutil.which("docker") or run("docker", "compose", "version").returncode != 0, reason="needs docker compose"
)
def test_compose_refuses_without_the_env_file_and_accepts_the_one_that_is_made(tmp_path: Path):
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    config = ("docker", "compose", "--profile", "*", "config")
    refused = run(*config, cwd=tmp_path)
    assert refused.returncode != 0
    assert "run make env" in refused.stderr
    compose.write(tmp_path, {})
    accepted = run(*config, cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    resolved = yaml.safe_load(accepted.stdout)["services"]
    assert resolved["worker"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert {port["host_ip"] for name in resolved for port in resolved[name].get("ports", [])} == {"127.0.0.1"}
