"""What a person names, found in the registry: a release by digest or model, and what its files say."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightshift.cli.connect import Connection
from nightshift.errors import NightshiftError
from nightshift.releases import signing
from nightshift.releases.registry import ReleaseInfo
from nightshift.stack.signing import TRUSTED

DECISION, METRICS = "decision.json", "metrics.json"


def find(connection: Connection, release: str) -> ReleaseInfo:
    """The release of a digest's first characters, or the champion of a model's name.

    Raises:
        NightshiftError: nothing serves for that model yet.
        ReleaseUnknown: no such release, or several.
    """
    if connection.registry.list(release) or release in connection.ledger.models():
        live = connection.ledger.live(release)
        if live is None:
            raise NightshiftError(
                f"nothing serves for {release} yet", f"name one of its releases: `nightshift releases {release}`"
            )
        return ReleaseInfo(release, live.digest)
    return connection.registry.find(release)


def read(connection: Connection, info: ReleaseInfo, path: str) -> Any:
    """A JSON file of a release; None when it has none (a release made by hand needs no decision).

    Raises:
        ReleaseCorrupt: it is not what the manifest says.
    """
    if connection.registry.manifest(info.model, info.digest).file(path) is None:
        return None
    return json.loads(connection.registry.read(info.model, info.digest, path))


@dataclass(frozen=True)
class Signer:
    """A key that signed a release. ``trusted`` is None where nothing says whose signature counts."""

    key: str
    valid: bool
    trusted: bool | None


def signers(connection: Connection, info: ReleaseInfo) -> list[Signer]:
    """Who signed a release, and whether NIGHTSHIFT_TRUSTED_KEYS, or ``trusted_keys`` here, names the key.

    Raises:
        StoreUnavailable: the trusted keys cannot be read, or the store does not answer.
    """
    file = Path(TRUSTED)
    source = os.environ.get(signing.TRUSTED) or (file if file.is_file() else None)
    trusted = {key.id for key in signing.Trust(source).read()} if source else None
    found = connection.registry.signatures(info.model, info.digest)
    if not found:
        return []
    manifest = connection.registry.manifest_bytes(info.model, info.digest)
    faults = {id: signing.fault(data, info.model, info.digest, id, manifest) for id, data in found.items()}
    return [Signer(id, not fault, None if trusted is None else id in trusted) for id, fault in faults.items()]


def known_model(connection: Connection, model: str) -> None:
    """Raises NightshiftError when neither ledger nor registry knows it."""
    if connection.ledger.newest(model) is None and not connection.registry.list(model):
        known = ", ".join(connection.ledger.models()) or "none yet"
        raise NightshiftError(f"the ledger has no model {model}", f"models with orders: {known}")


def clock(at: datetime) -> str:
    """A moment as people read it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
