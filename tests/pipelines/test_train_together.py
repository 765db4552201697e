"""Training by several processes (gloo, on the CPU): one model in the end, the same again, and no process left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from nightshift.stack.processes import free_ports
from tests.pipelines.models import MODEL, checkout
from tests.pipelines.small import ROOT
from tests.pipelines.test_train import same

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
EPOCHS = 4

# Each process trains, and leaves the weights that it ends with. The one that DIES names is killed in the third epoch.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.tasks.image_classification import module
from tests.pipelines.test_train import learn, params

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
folder, number, uses = Path(sys.argv[1]), os.environ.get("LOCAL_RANK", "0"), iter(range(10**6))

def loss(logits, y, label_smoothing):
    if next(uses) == 2 * (5 + 1) + 2 and os.environ.get("DIES") == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return module.loss(logits, y, label_smoothing)

weights, rows = learn(folder / "checkpoints", params(**json.loads(sys.argv[2])), loss)
save_file(weights, folder / f"weights-{number}")
(folder / f"rows-{number}").write_text(json.dumps(rows))
"""


def start(folder: Path, how: dict[str, Any], **more: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    program = folder / "program.py"
    program.write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), json.dumps({"epochs": EPOCHS} | how)],
        env=kept | {"PYTHONPATH": str(ROOT)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output, when all processes that hold the output have ended."""
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, output


def train(folder: Path, **more: str) -> tuple[int, str]:
    return end(start(folder, {"devices": 2}, **more))


def epochs(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("epoch ")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights with which both processes of a training end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = train(folder)
    assert status == 0, output
    assert epochs(output) == ["1/4", "2/4", "3/4", "4/4"], "one process speaks"
    first, second = (load_file(folder / f"weights-{number}") for number in (0, 1))
    assert same(first, second)
    rows = json.loads((folder / "rows-0").read_text())
    assert len(rows) == EPOCHS
    assert json.loads((folder / "rows-1").read_text()) is None, "what follows is the first one's"
    # Of all 20 rows, not of the half that one process sees.
    assert all((row["val/accuracy"] * 20) % 1 == pytest.approx(0, abs=1e-3) for row in rows)
    return first


@pytest.mark.parametrize("dies", ["0", "1"])
def test_a_killed_process_ends_the_other_and_the_next_attempt_ends_in_the_same_weights(
    tmp_path: Path, undisturbed: dict[str, Tensor], dies: str
) -> None:
    status, output = train(tmp_path, DIES=dies)  # comes back only when neither is left
    assert status != 0
    assert epochs(output) == ["1/4", "2/4"]
    assert not list(tmp_path.glob("weights-*"))
    status, output = train(tmp_path)
    assert status == 0, output
    assert epochs(output) == ["3/4", "4/4"]
    assert same(load_file(tmp_path / "weights-0"), undisturbed)
    assert same(load_file(tmp_path / "weights-1"), undisturbed)


def test_two_machines_end_in_the_weights_of_two_processes_of_one(
    tmp_path: Path, undisturbed: dict[str, Tensor]
) -> None:
    """Each has a folder of its own, as on two disks: what one alone has of an earlier attempt is not gone on from."""

    def nodes() -> list[str]:
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
        how = {"num_nodes": 2, "strategy": "ddp_find_unused_parameters_true"}
        started = [start(tmp_path / n, how, NODE_RANK=n, **meet) for n in ("0", "1")]
        ended = [end(process) for process in started]
        assert [status for status, _ in ended] == [0, 0], ended
        return [output for _, output in ended]

    for _ in range(2):
        first, second = nodes()
        assert epochs(first) == ["1/4", "2/4", "3/4", "4/4"]
        assert epochs(second) == []
        for node in ("0", "1"):
            assert same(load_file(tmp_path / node / "weights-0"), undisturbed)
            (tmp_path / node / "weights-0").unlink()
        assert (tmp_path / "0" / "checkpoints" / "last.ckpt").exists()


def test_the_stage_is_written_by_one_process_and_is_the_same_in_two_folders(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        root = checkout(tmp_path / name, epochs=2, devices=2, patience=5)
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.train", MODEL],
            cwd=root,
            env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(f"train {MODEL}: val/accuracy") == 1
        folder = root / "artifacts" / "models" / MODEL
        made.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {"epochs.csv", "metrics.json", "model.onnx", "weights.safetensors"}
