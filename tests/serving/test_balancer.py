"""Two endpoints behind the team's own load balancer; one is killed while requests come."""

import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.world import IMAGE, World, free_port, wait_for

CONFIGURATION = Path(__file__).parents[2] / "ops" / "nginx" / "balancer.conf"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: apt install nginx-light")


def configuration(replicas: list[int], port: int, folder: Path) -> str:
    """The team's file with other addresses, without gRPC and without the names of containers.

    Debian's nginx is older than the one that it is written for: it knows neither ``resolve`` nor ``http2``.
    """
    text = CONFIGURATION.read_text()
    grpc = text.index("  server {\n    listen 8001;")
    text = text[:grpc] + "}\n"
    text = re.sub(r"  upstream endpoint-grpc \{.*?\n  \}\n", "", text, flags=re.DOTALL)
    for number, replica in enumerate(replicas, start=1):
        text = text.replace(f"server endpoint-{number}:8000 resolve", f"server 127.0.0.1:{replica}")
    text = re.sub(r"  resolver [^\n]*\n", "", text)
    return text.replace("listen 8000;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")


@pytest.fixture
def balanced(world: World, tmp_path: Path) -> Iterator[tuple[list, str]]:
    digest = world.publish()
    world.order(digest, "proven")
    replicas = [world.endpoint(copies=f"copies-{number}").start() for number in (1, 2)]
    port, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    (folder / "nginx.conf").write_text(configuration([replica.port for replica in replicas], port, folder))
    nginx = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"])
    try:
        for replica in replicas:
            wait_for(lambda replica=replica: ready(replica.url))
        wait_for(lambda: ready(f"http://127.0.0.1:{port}"))
        yield replicas, f"http://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.wait(30)
        for replica in replicas:
            replica.stop(9)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/models/toy/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_replica_is_killed_under_load_and_no_request_fails(balanced: tuple[list, str]) -> None:
    replicas, url = balanced
    answers: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not over.is_set():
                try:
                    answers[str(client.post("/v2/models/toy/infer", json={"inputs": [IMAGE]}).status_code)] += 1
                except httpx.HTTPError as error:
                    answers[type(error).__name__] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    wait_for(lambda: answers["200"] > 100)
    assert replicas[0].process
    replicas[0].process.kill()
    before = answers["200"]
    wait_for(lambda: answers["200"] > before + 300)
    time.sleep(1)
    over.set()
    for client in clients:
        client.join(60)
    assert set(answers) == {"200"}, answers
    assert replicas[1].process.poll() is None
