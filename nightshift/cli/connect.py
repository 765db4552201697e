"""The registry, ledger and endpoints that a verb talks to: from the environment, else from this checkout's stack."""

import os
from dataclasses import dataclass
from pathlib import Path

from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


@dataclass(frozen=True)
class Connection:
    registry: Registry
    ledger: Ledger
    endpoints: tuple[str, ...]


def connect(identity: str = "deployer") -> Connection:
    """Raises NightshiftError (wrong use) when nothing says where the registry is."""
    take_settings(identity)
    url = os.environ.get("NIGHTSHIFT_REGISTRY")
    if not url:
        raise NightshiftError(
            "no registry is set",
            "run this in a checkout after `make up`, or set NIGHTSHIFT_REGISTRY to s3://bucket or a folder",
            exit_code=2,
        )
    store = open_store(url)
    return Connection(Registry(store), Ledger(store), endpoints())


def take_settings(identity: str) -> None:
    """Fill this process's environment from the checkout's stack, unless a registry is set there already.

    All or nothing: a bucket of the one with the keys of the other would only be refused.
    """
    if os.environ.get("NIGHTSHIFT_REGISTRY") or not Path(".nightshift", "ports.json").is_file():
        return  # set, or no stack was ever started here (`dvc repro` alone makes a .nightshift too)
    from nightshift.stack.settings import Stack

    os.environ.update(Stack.load(Path.cwd()).environment(identity))


def endpoints() -> tuple[str, ...]:
    """The replicas' URLs of NIGHTSHIFT_ENDPOINTS."""
    urls = (url.strip().rstrip("/") for url in os.environ.get("NIGHTSHIFT_ENDPOINTS", "").split(","))
    return tuple(url for url in urls if url)
