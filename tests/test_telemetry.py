"""No library tells its maker who runs it: not an endpoint's, not a stage's, on whichever way it is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nightshift import NO_TELEMETRY
from nightshift.engine.settings import child_environment

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module",
    ["nightshift.serving.model", "pipelines.tasks.image_classification.served", "benchmarks.serving.model"],
)
def test_onnx_runtime_makes_no_identity_of_this_machine(tmp_path: Path, module: str) -> None:
    """Where its telemetry is on, it has written one to the home folder when it is imported (not where CI is set)."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [sys.executable, "-c", f"import os, {module}; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert not list(tmp_path.rglob("*deviceid*"))
    assert done.stdout.strip() == "1"


def test_a_stages_process_is_told_so_too() -> None:
    assert NO_TELEMETRY.items() <= child_environment().items()
