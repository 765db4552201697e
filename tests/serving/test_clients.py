"""What a client that others wrote makes of the endpoint: tritonclient, over HTTP and gRPC, against a real process."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.serving import venv
from tests.serving.types_release import HALVES, make_types_release
from tests.serving.world import KEY, World

SCRIPT = Path(__file__).with_name("triton_checks.py")
PAGES = Path(__file__).parents[2] / "docs"
CHECKS = re.findall(r"^@check\ndef (\w+)", SCRIPT.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return venv.make(tmp_path_factory.mktemp("triton") / "venv", *venv.TRITON)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, python: Path) -> dict[str, str]:
    """What each check came to."""
    folder = tmp_path_factory.mktemp("clients")
    world = World(folder)
    digest = world.publish()
    world.order(digest, "proven")
    make_types_release(folder / "types")
    types = world.registry.publish(folder / "types")
    world.order(types, "proven", model="types")
    make_types_release(folder / "halves", "halves", HALVES)
    halves = world.registry.publish(folder / "halves")
    world.order(halves, "proven", model="halves")
    endpoint = world.endpoint().start()
    try:
        endpoint.wait_serving(digest)
        endpoint.wait_serving(types, model="types")
        endpoint.wait_serving(halves, model="halves")
        command = [python, SCRIPT, f"127.0.0.1:{endpoint.port}", f"127.0.0.1:{endpoint.grpc_port}", digest]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))
    finally:
        endpoint.stop()
        endpoint.client.close()


@pytest.mark.parametrize("check", CHECKS)
def test_tritonclient_is_content_with(found: dict[str, str], check: str) -> None:
    assert found[check] == "ok", found[check]


@pytest.mark.parametrize(("page", "port"), [("endpoint.md", 8000), ("grpc.md", 8001)])
def test_the_example_of_the_page_runs_as_it_is_written(served, python: Path, page: str, port: int) -> None:
    """But for the port, and with the smaller pictures of the model that is here."""
    _, endpoint, _ = served
    (example,) = re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    own = {
        "cifar10-cnn": "toy",
        "32, 32, 3": "4, 4, 3",
        str(port): str({8000: endpoint.port, 8001: endpoint.grpc_port}[port]),
    }
    for written, here in own.items():
        assert written in example
        example = example.replace(written, here)
    told = {**os.environ, "KEY": KEY}
    done = subprocess.run([python, "-c", example], env=told, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\[\[\d\.\d+ ", done.stdout), done.stdout
