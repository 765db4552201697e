"""The topology of a team, up, for all tests of this folder's file."""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Project, digits, make_project, parquet  # noqa: F401 - digits is a fixture
from tests.team import guard
from tests.team.topology import SERVERS, Topology


def on_gpu(project: Project) -> None:
    """A person's commit: training goes to the queue of the GPU workers."""
    file = project.root / "dvc.yaml"
    head, stage, rest = file.read_text().partition("\n  train:\n")
    hint = 'meta: {airflow: {dag: "train_${key}"'
    assert hint in rest
    file.write_text(head + stage + rest.replace(hint, f"{hint}, queue: gpu", 1))
    project.git("commit", "--quiet", "-am", "Train on queue gpu")


@pytest.fixture(scope="module")
def messages() -> Iterator[queue.Queue[dict[str, str]]]:
    """What the team is told, and ``url``, where it is told it."""
    arrived: queue.Queue[dict[str, str]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arrived.url = f"json://127.0.0.1:{server.server_address[1]}/"  # type: ignore[attr-defined]
        yield arrived
        server.shutdown()


@pytest.fixture(scope="module")
def topology(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    messages: Any,
    digits: Any,  # noqa: F811
) -> Iterator[Topology]:
    """The topology, up; the first day has landed, no night has run."""
    if missing := [program for program, found in SERVERS.items() if not found]:
        pytest.skip(f"a team's topology needs {', '.join(missing)} on PATH (packages postgresql and redis-server)")
    folder = tmp_path_factory.mktemp("team")
    postgres = Path(tempfile.mkdtemp(prefix="nightshift-postgres-"))
    watch = subprocess.Popen(
        [sys.executable, "-m", "tests.team.guard", str(folder), str(postgres)],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    made = Topology(folder, make_project(folder / "person"), postgres, messages.url)
    try:
        on_gpu(made.project)
        made.up()
        landed = {"train": parquet(*digits["day1"]), "test": parquet(*digits["test"], split="test")}
        for name, content in landed.items():
            key = f"mnist/date=2026-01-01/{name}.parquet"
            made.s3.client("admin").put_object(Bucket="nightshift-landing", Key=key, Body=content)
        yield made
    finally:
        if request.session.testsfailed:
            made.show()
        guard.end(folder, postgres)
        watch.communicate()
