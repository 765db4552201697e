"""A checkout of its own with a slice of the real MNIST, and the command line as a person types it there."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from nightshift.engine import graph
from nightshift.stack import demo
from nightshift.stack.processes import free_ports
from nightshift.stack.settings import Stack

ROOT = Path(__file__).parents[2]
PERSON = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"]
# Of this checkout: what no night needs, what its own nights recorded, and whom it trusts.
LEFT = ("tests/", "docs/", "champions/", "dvc.lock", "trusted_keys")


@dataclass
class Project:
    """One checkout with its stack."""

    root: Path
    env: Mapping[str, str]

    def run(self, *command: str, check: bool = True, timeout: float = 800) -> subprocess.CompletedProcess[str]:
        """A command in the checkout; its output is shown when it fails."""
        done = subprocess.run(
            command, cwd=self.root, env=dict(self.env), capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def nightshift(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("nightshift", *arguments, check=check)

    def night(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """One night; its summary."""
        done = self.nightshift("night", "--no-land", "--json", *arguments, check=False)
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-6000:]
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary

    def start_night(self) -> subprocess.Popen[str]:
        """A night that goes on beside the test."""
        return subprocess.Popen(
            ["nightshift", "night", "--no-land", "--json"],
            cwd=self.root,
            env=dict(self.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, words: str) -> list[int]:
        """The processes of this checkout whose command line has these words."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                here = str((entry / "cwd").readlink()).startswith(str(self.root))
            except (OSError, ValueError):
                continue
            if entry.name.isdigit() and here and words in command and "pytest" not in command:
                found.append(int(entry.name))
        return found

    def git(self, *arguments: str) -> str:
        return self.run("git", *PERSON, *arguments).stdout.strip()

    def edit(self, change) -> None:
        """A person's commit to params.yaml."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        change(params)
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        self.git("commit", "--quiet", "-am", "Edit params.yaml")

    @property
    def stack(self) -> Stack:
        return Stack.load(self.root, {})

    def land(self, key: str, content: bytes) -> None:
        """A file in the landing zone, as a person drops it."""
        self.stack.s3.client("admin").put_object(Bucket="nightshift-landing", Key=f"mnist/{key}", Body=content)

    def remove(self, prefix: str) -> None:
        """Files out of the landing zone."""
        s3 = self.stack.s3.client("admin")
        for found in s3.list_objects_v2(Bucket="nightshift-landing", Prefix=f"mnist/{prefix}").get("Contents", []):
            s3.delete_object(Bucket="nightshift-landing", Key=found["Key"])


def until(condition, patience: float = 150):
    """What ``condition`` answers, once that is something."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)
    return found


def parquet(images: np.ndarray, labels: list[str], split: str | None = None) -> bytes:
    """A file as a person would land it: PNG images, labels and, if told, the split of all."""

    def png(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image.squeeze()).save(stream, "PNG")
        return stream.getvalue()

    stream = io.BytesIO()
    columns = {"image": [png(image) for image in images], "label": labels}
    if split:
        columns["split"] = [split] * len(labels)
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


@pytest.fixture(scope="session")
def digits() -> dict[str, tuple[np.ndarray, list[str]]]:
    """Real MNIST rows: five days of 600 for training, and 500 for testing."""
    downloads = ROOT / demo.DOWNLOADS
    x, y = demo.day_rows("mnist", demo.DAYS[0], "train.parquet", downloads)
    tx, ty = demo.day_rows("mnist", demo.DAYS[0], "test.parquet", downloads)
    days = {f"day{n + 1}": (x[600 * n : 600 * (n + 1)], y[600 * n : 600 * (n + 1)]) for n in range(5)}
    return days | {"test": (tx[:500], ty[:500])}


def make_project(folder: Path) -> Project:
    """A copy of this checkout's files with MNIST alone, committed, and nothing of what its nights recorded."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(LEFT):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = {"mnist": params["datasets"]["mnist"]}
    params["models"] = {"mnist-mlp": params["models"]["mnist-mlp"]}
    params["datasets"]["mnist"]["validate"]["min_rows"] = 300
    params["datasets"]["mnist"]["validate"]["min_label_share"] = 0.01
    params["models"]["mnist-mlp"]["train"]["epochs"] = 4
    params["models"]["mnist-mlp"]["gate"]["value_threshold"] = {"accuracy": 0.5}
    params["models"]["mnist-mlp"]["gate"]["new_days"]["min_rows"] = 200  # days of 600 rows have 60 to ask about
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    outs = [graph.first_entry(path)["entry"] for path in ("data/mnist", "data/profiles/mnist")]
    (folder / "data.dvc").write_text(yaml.safe_dump({"outs": outs}, sort_keys=False))
    nobody = dict.fromkeys(("digest", "test", "edition", "judged")) | {"looks": 0, "promotions": 0}
    (folder / "champions").mkdir()
    (folder / "champions" / "mnist-mlp.json").write_text(json.dumps(nobody) + "\n")

    airflow, s3, endpoint, grpc = free_ports(4, set())
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("NIGHTSHIFT_", "AWS_", "GIT_"))
    }
    env = inherited | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "NIGHTSHIFT_AIRFLOW_PORT": str(airflow),
        "NIGHTSHIFT_S3_PORT": str(s3),
        "NIGHTSHIFT_ENDPOINT_PORT": str(endpoint),
        "NIGHTSHIFT_GRPC_PORT": str(grpc),
        "NIGHTSHIFT_CHECKPOINT_SECONDS": "2",
        "NO_COLOR": "1",
    }
    project = Project(folder, env)
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "The template")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, digits) -> Iterator[Project]:
    """A checkout whose stack is up and whose first day has landed; no night has run. It demands signed releases."""
    made = make_project(tmp_path_factory.mktemp("project"))
    (made.root / "trusted_keys").write_text(made.nightshift("signing-key", "create").stdout)
    made.git("add", "trusted_keys")
    made.edit(lambda params: params["models"]["mnist-mlp"]["deploy"].update(signed="required"))
    try:
        made.nightshift("up")
        made.land("date=2026-01-01/train.parquet", parquet(*digits["day1"]))
        made.land("date=2026-01-01/test.parquet", parquet(*digits["test"], split="test"))
        yield made
    finally:
        made.nightshift("down", check=False)
