"""What a person names, found in the registry: a release by digest or model, and what its files say."""

import json
from datetime import UTC, datetime
from typing import Any

from nightshift.cli.connect import Connection
from nightshift.errors import NightshiftError
from nightshift.releases.registry import ReleaseInfo

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


def known_model(connection: Connection, model: str) -> None:
    """Raises NightshiftError when neither ledger nor registry knows it."""
    if connection.ledger.newest(model) is None and not connection.registry.list(model):
        known = ", ".join(connection.ledger.models()) or "none yet"
        raise NightshiftError(f"the ledger has no model {model}", f"models with orders: {known}")


def clock(at: datetime) -> str:
    """A moment as people read it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
