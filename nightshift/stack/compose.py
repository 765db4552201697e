"""``python -m nightshift.stack.compose``: what docker-compose.yml reads beside itself. ``make env`` calls it.

``.env`` is what a team chooses and ``.nightshift/team/secrets.json`` what is random: both are made once, and what they
hold is never changed. ``.nightshift/team/<service>.env`` is made anew of the two by every call, so that a later version
brings its new options. All have mode 0600. The standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nightshift.errors import NightshiftError
from nightshift.stack import s3, signing, team
from nightshift.stack.private import filled, write_private

CHECKOUT = PurePosixPath("/opt/nightshift")  # of the image ops/docker/airflow.Dockerfile
REPOSITORY = str(CHECKOUT / "repository")
REPLICAS = ("endpoint-1", "endpoint-2")
BALANCER = "balancer"

# With what `.env` begins: each choice, and why one would make another.
CHOICES = {
    "NIGHTSHIFT_TEAM": (".nightshift/team", "where `make env` put each service's environment"),
    "NIGHTSHIFT_BIND": ("127.0.0.1", "the address at which Airflow, the endpoint and S3 can be reached"),
    "NIGHTSHIFT_AIRFLOW_PORT": ("8080", "Airflow's port there"),
    "NIGHTSHIFT_ENDPOINT_PORT": ("8000", "the load balancer's port there"),
    "NIGHTSHIFT_GRPC_PORT": ("8001", "its port for gRPC"),
    "NIGHTSHIFT_S3_PORT": ("8333", "S3's port there, for `dvc pull`"),
    "NIGHTSHIFT_PROMETHEUS_PORT": (
        "9090",
        "Prometheus' port, on loopback whatever the address: it asks for no password",
    ),
    "NIGHTSHIFT_GRAFANA_PORT": ("3000", "Grafana's port, with `--profile watch`, on loopback too"),
    "NIGHTSHIFT_AIRFLOW_URL": ("http://localhost:8080", "Airflow as people reach it"),
    "NIGHTSHIFT_ENDPOINT_HOSTS": ("", "the names by which others reach the endpoint, separated by commas"),
    "NIGHTSHIFT_SAMPLE_RATE": (
        "",
        "the share of requests whose inputs and answers are kept, 0.01 or MODEL=0.1,…: none",
    ),
    "NIGHTSHIFT_SAMPLE_LEAVE_OUT": ("", "what is left out of them: inputs, outputs, key, input:NAME, output:NAME"),
    "NIGHTSHIFT_SAMPLE_DAYS": ("", "for how many days they are kept: 90"),
    "NIGHTSHIFT_BRANCH": ("main", "the branch that nights run and record on"),
    "NIGHTSHIFT_REPO": (REPOSITORY, "the repository with that branch; this one is made by the service `init`"),
    "NIGHTSHIFT_NOTIFY_URL": ("", "whom nights that need somebody are told to, a URL of apprise's (docs/told.md)"),
    "NIGHTSHIFT_HEARTBEAT_URL": ("", "what is called after each night, for a watcher elsewhere"),
}


def write(root: Path, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Makes what is missing of the files for the checkout at ``root``; returns all of them.

    A choice in ``environ`` goes before the one in ``.env``, as it does for Compose.

    Raises:
        NightshiftError: ``.env`` is there and is somebody else's, a file that was made before cannot be read, or one
            of ``stack.signing`` cannot be used.
    """
    chosen = _choices(root / ".env", _branch(root)) | {name: environ[name] for name in CHOICES if name in environ}
    folder = root / chosen["NIGHTSHIFT_TEAM"]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets = _secrets(folder / "secrets.json")
    described = team.Team(
        secrets=secrets,
        repository=chosen["NIGHTSHIFT_REPO"],
        branch=chosen["NIGHTSHIFT_BRANCH"],
        public_url=chosen["NIGHTSHIFT_AIRFLOW_URL"],
        api_url="http://api-server:8080",
        s3_url="http://s3:8333",
        postgres="postgres:5432",
        redis="redis:6379",
        endpoints=tuple(f"http://{name}:8000" for name in REPLICAS),
        hosts=(*REPLICAS, BALANCER, *filter(None, chosen["NIGHTSHIFT_ENDPOINT_HOSTS"].replace(" ", "").split(","))),
        sample_rate=chosen["NIGHTSHIFT_SAMPLE_RATE"],
        sample_leave_out=chosen["NIGHTSHIFT_SAMPLE_LEAVE_OUT"],
        sample_days=chosen["NIGHTSHIFT_SAMPLE_DAYS"],
        notify_url=chosen["NIGHTSHIFT_NOTIFY_URL"],
        heartbeat_url=chosen["NIGHTSHIFT_HEARTBEAT_URL"],
        signing=signing.private(root),
        trusted=signing.trusted(root),
    )
    files = [root / ".env", folder / "secrets.json"]
    for service in team.SERVICES:
        told = described.environment(service, CHECKOUT)
        if service == team.S3:
            told["NIGHTSHIFT_S3_IDENTITIES"] = s3.identities(secrets["s3"]["keys"])
        files.append(folder / f"{service}.env")
        write_private(files[-1], team.env_file(told))
    return files


def _choices(file: Path, branch: str) -> dict[str, str]:
    """What the team chose; the file is made when there is none."""
    defaults = {name: value for name, (value, _) in CHOICES.items()} | {"NIGHTSHIFT_BRANCH": branch}
    if not file.exists():
        lines = [f"# {why}\n{name}={defaults[name]}\n" for name, (_, why) in CHOICES.items()]
        write_private(file, "# What this team chose. `make env` made it and never changes it.\n" + "".join(lines))
    found = dict(re.findall(r"^(NIGHTSHIFT_\w+)=[\"']?(.*?)[\"']?\s*$", file.read_text(), flags=re.MULTILINE))
    if "NIGHTSHIFT_TEAM" not in found:
        raise NightshiftError(
            f"{file} is not the one that `make env` makes",
            f"add the line NIGHTSHIFT_TEAM={CHOICES['NIGHTSHIFT_TEAM'][0]} to it, then `make env` again",
        )
    return defaults | found


def _secrets(file: Path) -> dict[str, Any]:
    """The team's random secrets: what is there is kept, what a later version wants beside it is added."""
    try:
        kept = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        raise NightshiftError(f"{file} is not readable JSON", "bring it back from a copy") from None
    secrets = filled(team.new_secrets(), kept)
    if secrets != kept:
        write_private(file, json.dumps(secrets, indent=1))
    return secrets


def _branch(root: Path) -> str:
    """The branch that is checked out; ``main`` where Git does not say."""
    asked = ["git", "-C", str(root), "symbolic-ref", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "main"


if __name__ == "__main__":
    try:
        made = write(Path.cwd())
    except NightshiftError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{made[0]} and {made[1].parent}: only you can read them\n")
