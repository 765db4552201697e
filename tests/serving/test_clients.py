"""What a client that others wrote makes of the endpoint: tritonclient, over HTTP and gRPC, against a real process."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.serving import venv
from tests.serving.types_release import make_types_release
from tests.serving.world import World

SCRIPT = Path(__file__).with_name("triton_checks.py")
CHECKS = re.findall(r"^@check\ndef (\w+)", SCRIPT.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each check came to."""
    folder = tmp_path_factory.mktemp("clients")
    python = venv.make(folder / "venv", *venv.TRITON)
    world = World(folder)
    digest = world.publish()
    world.order(digest, "proven")
    make_types_release(folder / "types")
    types = world.registry.publish(folder / "types")
    world.order(types, "proven", model="types")
    endpoint = world.endpoint().start()
    try:
        endpoint.wait_serving(digest)
        endpoint.wait_serving(types, model="types")
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
