"""The release that a challenger meets."""

import os
from pathlib import Path
from typing import Any

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseError, ReleaseUnknown
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


def fetch(model: str, digest: str, described: dict[str, Any]) -> Path:
    """The champion's folder, every digest checked; ``described`` is the data set's ``dataset.json``.

    Raises:
        ReleaseError: the registry does not answer, has no such release, or what it has is corrupt or of another kind.
    """
    home = Path(os.environ.get("NIGHTSHIFT_HOME") or ".nightshift").absolute()
    url = os.environ.get("NIGHTSHIFT_REGISTRY") or str(home / "registry")
    try:
        folder = Registry(open_store(url)).fetch(model, digest, home / "releases")
    except ReleaseUnknown:
        raise ReleaseUnknown(
            f"champions/{model}.json names the release {digest}, which the registry {url} does not have",
            "point NIGHTSHIFT_REGISTRY at the registry that has it, or copy the release there; "
            f'{{"digest": null}} in champions/{model}.json lets the absolute bounds decide',
        ) from None
    kind = manifests.verify(folder).input
    if list(kind.labels) != described["labels"] or list(kind.shape) != described["shape"]:
        raise ReleaseError(
            f"the champion {digest} of {model} has other labels or another shape of images than today's data set",
            f'they cannot be compared; {{"digest": null}} in champions/{model}.json lets the absolute bounds decide',
        )
    return folder


def seen_days(folder: Path) -> set[str]:
    """The days of the snapshot that a release was made of."""
    return set(manifests.load((folder / manifests.NAME).read_bytes()).lineage.get("dataset", {}).get("days", []))
