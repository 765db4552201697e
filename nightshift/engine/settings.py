"""The engine's settings: the environment, read where it is used."""

import os
import sys
from pathlib import Path

from nightshift import NO_TELEMETRY
from nightshift.errors import NightshiftError

MEANING = {
    "NIGHTSHIFT_WORK": "where runs, held days and DVC's objects are, such as s3://nightshift-work",
    "NIGHTSHIFT_REGISTRY": "where releases and the ledger are, such as s3://nightshift-registry",
    "NIGHTSHIFT_HOME": "the folder of this machine's workspaces and caches, such as .nightshift",
    "NIGHTSHIFT_REPO": "the bare repository that nights read and record into, a path or a URL",
    "NIGHTSHIFT_ENDPOINTS": "the endpoint's replicas, URLs separated by commas",
}

PERSONAL_SECRET = "NIGHTSHIFT_PERSONAL_SECRET"  # noqa: S105 - its name; only ingest's process is given it

# A stage's process gets these and nothing else: never Airflow's secrets, never the deployer's identity.
ALLOWED = {
    "HOME", "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "NIGHTSHIFT_WORK", "NIGHTSHIFT_REGISTRY", "NIGHTSHIFT_HOME", "PYTHONPYCACHEPREFIX",
    "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", *NO_TELEMETRY,
}  # fmt: skip
ALLOWED_PREFIXES = ("LC_", "AWS_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "OMP_", "MKL_", "OPENBLAS_")


def setting(name: str) -> str:
    """One setting.

    Raises:
        NightshiftError: it is not set; says what it is for.
    """
    value = os.environ.get(name, "")
    if not value:
        raise NightshiftError(f"{name} is not set", f"set it: {MEANING[name]}")
    return value


def home() -> Path:
    """This machine's folder, absolute."""
    return Path(setting("NIGHTSHIFT_HOME")).absolute()


def branch() -> str:
    """The branch that nights run and record on."""
    return os.environ.get("NIGHTSHIFT_BRANCH") or "main"


def seconds(name: str, default: float) -> float:
    """A setting in seconds, such as ``NIGHTSHIFT_CHECKPOINT_SECONDS``.

    Raises:
        NightshiftError: it is no number above 0.
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise NightshiftError(f"{name} is {text!r}", f"write seconds above 0, such as {default:g}")
    return value


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a stage's process: the allow-list, and what ``more`` adds."""
    kept = {k: v for k, v in os.environ.items() if k in ALLOWED or k.startswith(ALLOWED_PREFIXES)}
    # `python` in a stage's command is the Python that runs the engine.
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    # DVC runs commands with $SHELL: the same on a worker as on a workstation.
    return kept | {"SHELL": "/bin/sh", "PYTHONUNBUFFERED": "1"} | more


def as_deployer() -> None:
    """From here on this process is the deployer, where one is set: it also writes the registry."""
    key = os.environ.get("NIGHTSHIFT_DEPLOYER_ACCESS_KEY_ID")
    if key:
        os.environ["AWS_ACCESS_KEY_ID"] = key
        os.environ["AWS_SECRET_ACCESS_KEY"] = os.environ["NIGHTSHIFT_DEPLOYER_SECRET_ACCESS_KEY"]
