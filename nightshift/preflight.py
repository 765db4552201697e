"""A look around, before anything is installed: what will happen, what is missing, and what brings it.

Run by `make` with the system's own Python, so the standard library only, in words that an old Python can read too.
`nightshift doctor` calls the same functions.

    python3 nightshift/preflight.py            says what `make night` will do; exit 1 when something stops it
    python3 nightshift/preflight.py --quiet    says only what stops it
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from pathlib import Path

PYTHON = (3, 11, 4)  # the first whose tarfile unpacks safely
# Measured on two cores: `.venv` of this lock with torch for CPU; CUDA's libraries come with torch's default wheel.
INSTALL_GB = {"cpu": 2.4, "cuda": 7.5}
NIGHT_GB = 1.5
INSTALL_MINUTES, NIGHT_MINUTES = 4, 6
PORTS = {  # by what they are for: their name in ports.json, the variable that moves them, and the process that listens
    "Airflow": ("airflow", "NIGHTSHIFT_AIRFLOW_PORT", 8080, "airflow-api-server"),
    "S3": ("s3", "NIGHTSHIFT_S3_PORT", 8333, "s3"),
    "endpoint": ("endpoint", "NIGHTSHIFT_ENDPOINT_PORT", 8000, "endpoint"),
    "gRPC": ("grpc", "NIGHTSHIFT_GRPC_PORT", 8001, "endpoint"),
}
MANAGERS = {
    "apt-get": "sudo apt-get install -y",
    "dnf": "sudo dnf install -y",
    "apk": "sudo apk add",
    "brew": "brew install",
}


class Finding:
    """One thing looked at: ``ok`` True, False (stops a night) or None (worth knowing), words, and the next step."""

    def __init__(self, name: str, ok: bool | None, words: str, next_step: str = ""):
        self.name, self.ok, self.words, self.next_step = name, ok, words, next_step

    def line(self) -> str:
        mark = {True: "ok  ", None: "note", False: "STOP"}[self.ok]
        step = (
            "\n               {}: {}".format("do" if self.ok is False else "or", self.next_step)
            if self.next_step
            else ""
        )
        return f"  {mark} {self.name:<9} {self.words}{step}"


def look(root: Path, environ: dict[str, str]) -> list[Finding]:
    """Everything that can be known before installation."""
    found = [check_system(sys.platform), check_python(sys.version_info[:3]), check_tool("git"), check_npm()]
    found.append(check_disk(root))
    found += [check_port(root, name, environ) for name in PORTS]
    return found


def check_system(system: str) -> Finding:
    if system.startswith("win"):
        return Finding("system", False, "Windows: Airflow does not run on it", "use WSL 2 and clone inside it")
    words = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if system == "darwin" and platform.machine() == "x86_64":
        return Finding(
            "system", False, words + ": torch and SeaweedFS ship no wheels for Intel Macs", "use a Linux machine"
        )
    return Finding("system", True, words)


def check_python(version: tuple) -> Finding:
    words = f"Python {version[0]}.{version[1]}.{version[2]} ({sys.executable})"
    wanted = ".".join(map(str, PYTHON))
    if tuple(version[:3]) < PYTHON:
        name = "python{}.{}".format(*PYTHON)
        step = f"{install_command(name)}, then: make night PYTHON={name}"
        return Finding("python", False, f"{words} is older than {wanted}", step)
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:  # Debian and Ubuntu package it apart
        package = f"python{version[0]}.{version[1]}-venv"
        return Finding("python", False, words + " cannot make virtual environments", install_command(package))
    return Finding("python", True, words)


def check_tool(name: str) -> Finding:
    path = shutil.which(name)
    if path:
        return Finding(name, True, path)
    return Finding(name, False, name + " is not on PATH", install_command(name))


def check_npm() -> Finding:
    path = shutil.which("npm")
    if path and shutil.which("node"):
        return Finding("npm", True, path + " (brings the demo data)")
    words = "missing: the demo data comes from its official archives instead (about 180 MB)"
    return Finding("npm", None, words, install_command("npm"))


def check_disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    needed = (0 if is_installed(root) else install_gb()) + (0 if has_run(root) else NIGHT_GB)
    words = f"{free:.0f} GB free, about {needed:.1f} GB needed"
    if free < needed:
        return Finding("disk", False, words + f" in {root}", "make room, or clone where there is more")
    return Finding("disk", True, words)


def check_port(root: Path, name: str, environ: dict[str, str]) -> Finding:
    key, variable, default, process = PORTS[name]
    kept = read(root / ".nightshift" / "ports.json")
    text = environ.get(variable) or str(kept.get(key, default))
    label = "port"
    if not (text.isdigit() and 0 < int(text) < 65536):
        return Finding(label, False, f"{variable} is {text!r}, no port", "use a number from 1 to 65535")
    port = int(text)
    if port_is_free(port):
        return Finding(label, True, f"{port} for {name} ({variable} changes it)")
    if kept.get(key) == port and runs(root, process):
        return Finding(label, True, f"{port} for {name}: this checkout's own runs there")
    words = f"{port}, meant for {name}, is taken by another program"
    return Finding(label, False, words, f"stop it, or choose another: {variable}=<port> make night")


def port_is_free(port: int) -> bool:
    """Whether ``port`` of loopback can be listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def runs(root: Path, name: str) -> bool:
    """Whether the process of this checkout's stack is there, going by its id alone (`up` looks closer)."""
    try:
        os.kill(int(read(root / ".nightshift" / "run" / (name + ".json"))["pid"]), 0)
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return True


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def is_installed(root: Path) -> bool:
    return (root / ".venv" / ".installed").exists()


def has_run(root: Path) -> bool:
    return (root / ".nightshift" / "s3").exists()


def install_gb() -> float:
    """What `.venv` will take; torch's default wheel for Linux brings CUDA's libraries, a machine without a GPU too."""
    # pip takes a wheel for CPU where it is told of one.
    cpu_only = (
        sys.platform == "darwin" or "cpu" in os.environ.get("PIP_INDEX_URL", "") or os.environ.get("PIP_FIND_LINKS")
    )
    return INSTALL_GB["cpu" if cpu_only else "cuda"]


def install_command(package: str) -> str:
    for manager, command in MANAGERS.items():
        if shutil.which(manager):
            return f"{command} {package}"
    return f"install {package} with your system's package manager"


def plan(root: Path) -> list[str]:
    """What `make night` is going to do here, in a few lines."""
    lines = []
    if is_installed(root):
        lines.append(f"installed already: {root}/.venv")
    else:
        lines.append(
            f"installs the locked packages into {root}/.venv: about {install_gb():.1f} GB, {INSTALL_MINUTES} minutes"
        )
    if has_run(root):
        lines.append(f"runs the next night with what is in {root}/.nightshift")
    else:
        lines.append(
            "starts S3, Airflow and the endpoint on 127.0.0.1, lands a day of data and runs the first night: "
            f"about {NIGHT_MINUTES} minutes, {NIGHT_GB:.1f} GB in {root}/.nightshift"
        )
    lines.append("writes nowhere else, but for the caches of pip, uv and npm; `make clean` removes it all")
    return lines


def main(arguments: list[str]) -> int:
    root = Path(__file__).resolve().parents[1]
    found = look(root, dict(os.environ))
    stops = [finding for finding in found if finding.ok is False]
    if "--quiet" in arguments:
        # What only a night needs does not stop an installation.
        stops = [finding for finding in stops if finding.name in ("system", "python", "disk")]
        found = stops
    else:
        print("Nightshift, before it starts:")
        for line in plan(root):
            print("  - " + line)
    for finding in found:
        print(finding.line())
    return 1 if stops else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
