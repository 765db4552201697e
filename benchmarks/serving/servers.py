"""The servers that are compared: what installs each, what starts it, and where and how it is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
ORT = "onnxruntime==1.32.0"  # the same for all


@dataclass(frozen=True)
class Server:
    """``ways`` are those in which it can be asked: json, binary, grpc. ``plain``: it takes {"data": …}, not tensors."""

    name: str
    packages: tuple[str, ...]  # empty: this environment has it
    command: Callable[[Path, Path, int, int], Sequence[str | Path]]  # python, folder of the model, port, gRPC port
    path: str
    ways: tuple[str, ...] = ("json",)
    plain: bool = False


def _program(name: str) -> Callable[[Path, Path, int, int], Sequence[str | Path]]:
    return lambda python, folder, port, grpc_port: [python, PROGRAMS / f"{name}.py", folder, str(port), str(grpc_port)]


def _nightshift(python: Path, folder: Path, port: int, grpc_port: int) -> Sequence[str | Path]:
    serve = [python, "-m", "nightshift.cli.main", "serve", "--registry", folder / "registry"]
    return [*serve, "--port", str(port), "--grpc-port", str(grpc_port), "--cache", folder / "copies"]


def _bare(python: Path, folder: Path, port: int, _: int) -> Sequence[str | Path]:
    return [python, PROGRAMS / "bare.py", folder, str(port)]


def _bentoml(python: Path, _: Path, port: int, __: int) -> Sequence[str | Path]:
    where = ["--working-dir", PROGRAMS, "--host", "127.0.0.1", "--port", str(port)]
    return [python.with_name("bentoml"), "serve", "bentoml_onnx:Cnn", *where]


def _mlserver(python: Path, folder: Path, port: int, grpc_port: int) -> Sequence[str | Path]:
    home = folder / "mlserver"
    home.mkdir(exist_ok=True)
    ports = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc_port, "metrics_port": port + 2}
    settings = {**ports, "parallel_workers": 0, "debug": False}  # in process: the fastest of its ways here
    (home / "settings.json").write_text(json.dumps(settings))
    model = {"name": "cnn", "implementation": "mlserver_onnx.Cnn", "parameters": {"uri": str(folder / "model.onnx")}}
    (home / "model-settings.json").write_text(json.dumps(model))
    return [python.with_name("mlserver"), "start", home]


OURS, BARE = "nightshift", "bare"
INFER = "/v2/models/cnn/infer"
SERVERS = (
    Server(OURS, (), _nightshift, INFER, ("json", "binary", "grpc")),
    Server(BARE, (), _bare, INFER, ("json", "binary")),
    Server("mlserver", ("mlserver", ORT), _mlserver, INFER, ("json", "grpc")),
    Server("kserve", ("kserve", ORT), _program("kserve_onnx"), INFER, ("json", "binary", "grpc")),
    Server("litserve", ("litserve", ORT), _program("litserve_onnx"), "/predict", plain=True),
    Server("bentoml", ("bentoml", ORT), _bentoml, "/predict", plain=True),
    Server("fastapi", (), _program("fastapi_torch"), "/predict", plain=True),
)


def install(server: Server, cache: Path) -> Path | str:
    """The Python that runs it, in an environment of its own below ``cache``; or why it cannot be installed here."""
    if not server.packages:
        return Path(sys.executable)
    python = cache / server.name / "bin" / "python"
    done = python.parent.parent / ".installed"
    if done.exists() and done.read_text() == " ".join(server.packages):
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, cache / server.name], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", python, *server.packages]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        return found.stderr.strip().splitlines()[-1] if found.stderr.strip() else "the installation failed"
    done.write_text(" ".join(server.packages))
    return python


def environment(folder: Path) -> dict[str, str]:
    """The same for all: one thread of computing, no accelerator, nobody's telemetry."""
    foreign = ("NIGHTSHIFT_", "AWS_", "PYTHON", "MLSERVER_", "BENTOML_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "MODEL_FOLDER": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parents[2])]),
    }
