"""The registry, ledger and endpoints that a verb talks to: from the environment, else from this checkout's stack."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.store import Store, open_store
from nightshift.serving.places import place

RegistryOption = Annotated[
    str | None, typer.Option(help="Another registry than the set one: s3://bucket, s3://bucket/prefix or a folder.")
]


@dataclass(frozen=True)
class Connection:
    registry: Registry
    ledger: Ledger
    endpoints: tuple[str, ...]


def connect(identity: str = "deployer", registry: str | None = None) -> Connection:
    """The registry that is named, else the one that is set; a named one is reached with the keys that are set.

    Raises NightshiftError (wrong use) when nothing says where the registry is.
    """
    take_settings(identity)
    url = registry or os.environ.get("NIGHTSHIFT_REGISTRY")
    if not url:
        raise NightshiftError(
            "no registry is set",
            "run this in a checkout after `make up`, or name s3://bucket or a folder (--registry, NIGHTSHIFT_REGISTRY)",
            exit_code=2,
        )
    store = open_store(url)
    return Connection(Registry(store), Ledger(store), endpoints())


def store_of(what: Literal["keys", "served"]) -> Store:
    """The API keys, or what was served, as whoever gives keys to others.

    Raises:
        NightshiftError: nothing says where they are (wrong use).
    """
    take_settings("keys")
    registry = os.environ.get("NIGHTSHIFT_REGISTRY", "")
    url = place(what, registry) if registry or os.environ.get(f"NIGHTSHIFT_{what.upper()}") else None
    if not url:
        raise NightshiftError(
            f"no place for {'API keys' if what == 'keys' else 'what was served'} is set",
            f"run this in a checkout after `make up`, or set NIGHTSHIFT_{what.upper()} to s3://bucket or a folder",
            exit_code=2,
        )
    return open_store(url)


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """For a while this process's environment is exactly this one."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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
