"""The servers that are compared: what installs each, what starts it, and where and how it is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.serving.table import Comparison
from nightshift import NO_TELEMETRY

PROGRAMS = Path(__file__).parent / "programs"
ORT = "onnxruntime==1.32.0"  # the same for all


@dataclass(frozen=True)
class Place:
    """Where one server runs: ``folder`` has the model and is for all, ``home`` is its own."""

    python: Path
    folder: Path
    home: Path
    processes: int
    port: int
    grpc_port: int
    metrics_port: int


Command = Callable[[Place], Sequence[str | Path]]


@dataclass(frozen=True)
class Server:
    """``ways`` are those in which it can be asked: json, binary, grpc. ``plain``: it takes {"data": …}, not tensors.

    ``processes`` is how many infer; what else a server needs to run (a front, a supervisor) comes on top.
    """

    name: str
    packages: tuple[str, ...]  # beside ONNX Runtime; empty: this environment has it
    command: Command
    path: str
    ways: tuple[str, ...] = ("json",)
    plain: bool = False
    processes: int = 1

    @property
    def label(self) -> str:
        return self.name if self.processes == 1 else f"{self.name} x{self.processes}"


def _both(server: Server, **of_two: Any) -> tuple[Server, Server]:
    """The server in one process, and in two with what is different there."""
    return server, replace(server, processes=2, **of_two)


def _program(name: str) -> Command:
    return lambda at: [at.python, PROGRAMS / f"{name}.py", at.folder, str(at.port), str(at.grpc_port)]


def _nightshift(at: Place) -> Sequence[str | Path]:
    serve = [at.python, "-m", "nightshift.cli.main", "serve", "--registry", at.folder / "registry", "--cache", at.home]
    return [*serve, "--processes", str(at.processes), "--port", str(at.port), "--grpc-port", str(at.grpc_port)]


def _bentoml(at: Place) -> Sequence[str | Path]:
    where = ["--working-dir", PROGRAMS, "--host", "127.0.0.1", "--port", str(at.port)]
    return [at.python.with_name("bentoml"), "serve", "bentoml_onnx:Cnn", *where]


def _fastapi(at: Place) -> Sequence[str | Path]:
    where = ["--host", "127.0.0.1", "--port", str(at.port), "--log-level", "warning"]
    return [at.python, "-m", "uvicorn", "fastapi_torch:app", *where, "--workers", str(at.processes)]


def _mlserver(at: Place) -> Sequence[str | Path]:
    ports = {"host": "127.0.0.1", "http_port": at.port, "grpc_port": at.grpc_port, "metrics_port": at.metrics_port}
    workers = at.processes if at.processes > 1 else 0  # 0: in the server's own process, the faster of its ways to one
    (at.home / "settings.json").write_text(json.dumps({**ports, "parallel_workers": workers, "debug": False}))
    model = {"name": "cnn", "implementation": "mlserver_onnx.Cnn", "parameters": {"uri": str(at.folder / "model.onnx")}}
    (at.home / "model-settings.json").write_text(json.dumps(model))
    return [at.python.with_name("mlserver"), "start", at.home]


OURS, BARE = "nightshift", "bare"
INFER = "/v2/models/cnn/infer"
SERVERS = (
    *_both(Server(OURS, (), _nightshift, INFER, ("json", "binary", "grpc"))),
    *_both(Server(BARE, (), _program("bare"), INFER, ("json", "binary", "grpc"))),
    *_both(
        Server("mlserver", ("mlserver",), _mlserver, INFER, ("json", "grpc")),
        packages=("mlserver", "uvloop==0.21.0"),  # its parallel workers end at once with a later one
    ),
    *_both(
        Server("kserve", ("kserve",), _program("kserve_onnx"), INFER, ("json", "binary", "grpc")),
        ways=("json", "binary"),  # its gRPC stays in one process, whatever ``workers`` is
    ),
    *_both(Server("litserve", ("litserve",), _program("litserve_onnx"), "/predict", plain=True)),
    *_both(Server("bentoml", ("bentoml",), _bentoml, "/predict", plain=True)),
    *_both(Server("fastapi", (), _fastapi, "/predict", plain=True)),
)
_PEERS = [server for server in SERVERS if server.name not in (OURS, BARE)]
COMPARISONS = (
    Comparison(OURS, "the best peer in one process", [server.label for server in _PEERS if server.processes == 1]),
    Comparison(f"{OURS} x2", "the best peer of any kind", [server.label for server in _PEERS]),
    Comparison(OURS, BARE, [BARE]),
    Comparison(f"{OURS} x2", f"{BARE} x2", [f"{BARE} x2"]),
)


def chosen(only: str, processes: int | None) -> list[Server]:
    """Those with one of these names (of a server, or of one kind of it), in so many processes; ValueError for others.

    No name is all, None is every number of processes.
    """
    names = set(only.split(",")) if only else {server.name for server in SERVERS}
    if unknown := names - {server.name for server in SERVERS} - {server.label for server in SERVERS}:
        raise ValueError(f"no server is named {', '.join(sorted(unknown))}")
    named = [server for server in SERVERS if names & {server.name, server.label}]
    return [server for server in named if processes in (None, server.processes)]


def install(server: Server, cache: Path) -> Path | str:
    """The Python that runs it, in an environment of its own below ``cache``; or why it cannot be installed here."""
    if not server.packages:
        return Path(sys.executable)
    packages = [*server.packages, ORT]
    folder = cache / "-".join(server.packages)
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists() and done.read_text() == " ".join(packages):
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", python, *packages]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        return found.stderr.strip().splitlines()[-1] if found.stderr.strip() else "the installation failed"
    done.write_text(" ".join(packages))
    return python


def environment(at: Place) -> dict[str, str]:
    """The same for all: one thread of computing in a process, no accelerator, nobody's telemetry."""
    foreign = ("NIGHTSHIFT_", "AWS_", "PYTHON", "MLSERVER_", "BENTOML_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "MODEL_FOLDER": str(at.folder),
        "PROCESSES": str(at.processes),
        "BENTOML_HOME": str(at.home),
        "BENTOML_DO_NOT_TRACK": "True",
        **NO_TELEMETRY,
        "PYTHONPATH": os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parents[2])]),
    }
