"""Programs of others in a venv of their own, because what they pin is not what the lock holds."""

import subprocess
import sys
from pathlib import Path

import pytest

TRITON = ("tritonclient[grpc,http]==2.73.0", "ml_dtypes")


def make(folder: Path, *packages: str) -> Path:
    """The Python of a new venv with these packages; skips the test when no package index can be reached."""
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{packages[0]} cannot be installed: {done.stderr.strip()[-300:]}")
    return python
