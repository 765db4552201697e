"""What one machine's stack is made of: ports, secrets and folders, below ``.nightshift/`` of the checkout.

Ports and secrets are chosen once and kept, in ``ports.json`` and ``secrets.json`` (mode 0600). The four ports that a
person types come from environment variables, the others are picked free.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nightshift.errors import NightshiftError
from nightshift.preflight import port_is_free
from nightshift.stack import s3, signing
from nightshift.stack.private import filled, new_endpoint_key, write_private
from nightshift.stack.processes import Processes, free_ports

AIRFLOW, S3, ENDPOINT, GRPC = "airflow", "s3", "endpoint", "grpc"
PORT_VARIABLES = {
    AIRFLOW: ("NIGHTSHIFT_AIRFLOW_PORT", 8080),
    S3: ("NIGHTSHIFT_S3_PORT", 8333),
    ENDPOINT: ("NIGHTSHIFT_ENDPOINT_PORT", 8000),
    GRPC: ("NIGHTSHIFT_GRPC_PORT", 8001),
}

# All that a process of the stack inherits from the shell that typed `up`: no token, key or secret of the person's.
INHERITED = {
    "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "NIGHTSHIFT_CHECKPOINT_SECONDS", "NIGHTSHIFT_LEASE_SECONDS",
}  # fmt: skip
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_")


@dataclass(frozen=True)
class Stack:
    """One checkout's stack; what it was set up with, not whether it runs."""

    root: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, Any]

    @staticmethod
    def exists(root: Path) -> bool:
        """Whether ``up`` was ever called here."""
        return (root / ".nightshift" / "ports.json").exists()

    @classmethod
    def load(cls, root: Path, environ: Mapping[str, str] | None = None) -> Stack:
        """The stack of the checkout at ``root``, as kept; set up (not started) when there is none yet.

        ``environ`` is what ``up`` passes: its port variables then replace the ports kept.

        Raises:
            NightshiftError: a port variable is no port, or two are the same.
        """
        home = root / ".nightshift"
        kept: dict[str, int] = _read(home / "ports.json")
        environ = os.environ if environ is None and not kept else environ or {}
        ports = {}
        for name, (variable, default) in PORT_VARIABLES.items():
            typed = environ.get(variable)
            ports[name] = _port(variable, typed) if typed else kept.get(name, default)
        if len(set(ports.values())) < len(ports):
            raise NightshiftError(
                f"Two services have the same port: {ports}",
                "set " + ", ".join(variable for variable, _ in PORT_VARIABLES.values()),
            )
        missing = [name for name in s3.INNER_PORTS if name not in kept or kept[name] in ports.values()]
        taken = {*ports.values(), *kept.values()}
        picked = dict(zip(missing, free_ports(len(missing), taken), strict=True))
        ports |= {name: picked.get(name) or kept[name] for name in s3.INNER_PORTS}
        known = _read(home / "secrets.json")
        secrets = filled(_new_secrets(), known)
        if ports != kept or secrets != known:
            home.mkdir(mode=0o700, exist_ok=True)
            write_private(home / "secrets.json", json.dumps(secrets, indent=1))
            write_private(home / "ports.json", json.dumps(ports, indent=1))
        return cls(root, ports, secrets)

    def with_free(self, names: Iterable[str]) -> Stack:
        """The same stack, with another port for each of ``names`` that somebody took while its service was down."""
        taken = [name for name in names if not port_is_free(self.ports[name])]
        if not taken:
            return self
        ports = {**self.ports, **dict(zip(taken, free_ports(len(taken), self.ports.values()), strict=True))}
        write_private(self.home / "ports.json", json.dumps(ports, indent=1))
        return replace(self, ports=ports)

    @property
    def home(self) -> Path:
        """The folder of everything that is made on this machine."""
        return self.root / ".nightshift"

    @property
    def repository(self) -> Path:
        """The bare repository that nights read and record into."""
        return self.home / "repo.git"

    @property
    def processes(self) -> Processes:
        return Processes(self.home)

    @property
    def s3(self) -> s3.S3Server:
        inner = {name: self.ports[name] for name in s3.INNER_PORTS}
        return s3.S3Server(self.home / "s3", self.ports[S3], inner, self.secrets["s3"])

    @property
    def s3_url(self) -> str:
        return self.s3.url

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[AIRFLOW]}"

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[ENDPOINT]}"

    @property
    def grpc_address(self) -> str:
        """Host and port of the endpoint's gRPC, as its clients take it."""
        return f"127.0.0.1:{self.ports[GRPC]}"

    @property
    def airflow_user(self) -> str:
        return "admin"

    @property
    def airflow_password(self) -> str:
        return str(self.secrets["airflow"]["password"])

    @property
    def endpoint_key(self) -> str:
        """Opens administration, metrics and models of this stack's endpoint."""
        return str(self.secrets["endpoint"]["key"])

    def environment(self, identity: str) -> dict[str, str]:
        """The settings with which our code speaks to this stack as one of ``s3.IDENTITIES``."""
        ours = {
            **self.s3.environment(identity),
            "NIGHTSHIFT_HOME": str(self.home),
            "NIGHTSHIFT_REPO": str(self.repository),
            "NIGHTSHIFT_ENDPOINTS": self.endpoint_url,
        }
        if identity == "worker":
            ours["NIGHTSHIFT_PERSONAL_SECRET"] = str(self.secrets["personal"]["secret"])
        if identity == "deployer":
            ours["NIGHTSHIFT_ENDPOINT_KEY"] = self.endpoint_key
            ours |= signing.private(self.root)
        if identity == "endpoint":
            ours |= signing.trusted(self.root)
            ours["NIGHTSHIFT_ENDPOINT_KEY_SHA256"] = sha256(self.endpoint_key.encode()).hexdigest()
        return ours


def find_root(start: Path | None = None) -> Path:
    """The checkout that ``start`` (the working directory) lies in: the first folder upwards with a ``dvc.yaml``.

    Raises:
        NightshiftError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").exists() and (folder / "params.yaml").exists():
            return folder
    raise NightshiftError(f"{start} is not inside a Nightshift checkout (no dvc.yaml above it)", "cd into the checkout")


def inherited(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of a shell's environment that a process of the stack gets."""
    kept = {name: value for name, value in environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)}
    # Loopback never goes through a proxy, and the programs of this environment come first.
    kept |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    return kept


def _new_secrets() -> dict[str, Any]:
    return {
        "s3": s3.new_secrets(),
        "airflow": {name: random_secrets.token_urlsafe(48) for name in ("jwt_secret", "secret_key")}
        | {"password": random_secrets.token_urlsafe(12)},
        "endpoint": {"key": new_endpoint_key()},
        "personal": {"secret": random_secrets.token_urlsafe(48)},
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise NightshiftError(
            f"{path} is not readable JSON", "bring it back from a copy, or start anew with `nightshift reset`"
        ) from None
    return found


def _port(variable: str, text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise NightshiftError(f"{variable} is {text!r}, not a port", "use a number from 1 to 65535", exit_code=2)
    return int(text)
