"""The release that a challenger meets."""

import json
import os
from pathlib import Path
from typing import Any

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseError, ReleaseUnknown
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from pipelines.statistics import drift


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
    """The days that a release was trained on: those of its snapshot up to its cut-off."""
    dataset = _dataset(folder)
    until = dataset.get("trained_until", "9999-12-31")
    return {day for day in dataset.get("days", []) if day <= until}


def seen_frozen(folder: Path, frozen: dict[str, Any]) -> set[str]:
    """The days whose frozen rows a release may have been trained on; ``frozen`` is that of today's ``dataset.json``.

    A source's marks hold for ever, and so do keys, as long as their share does not grow and no edition comes back that
    was given up. Everything else goes by the day.
    """
    then = _dataset(folder)
    if then.get("split", frozen["split"]) == frozen["split"] == "official":
        return set()
    if then.get("split") == frozen["split"] == "hash":
        begun, begins = (str(edition).replace("start", "") for edition in (then["edition"], frozen["edition"]))
        if frozen["share"] <= then["share"] and begun <= begins:
            return set()
    return seen_days(folder)


def drifted(folder: Path, days: list[str], profile: dict[str, Any]) -> dict[str, Any] | None:
    """How far the challenger's training rows, and those of each day that is new, lie from the champion's.

    Args:
        folder: the champion's release.
        days: those that the challenger was trained on.
        profile: validation's ``profile.json``, which has the training rows of each day.

    Returns:
        ``all``, ``days``, and the names of ``other_bins``, which cannot be compared; None when the release is of
        before releases had a profile.
    """
    path = folder / "profile.json"
    if not path.is_file():
        return None
    champion, seen = json.loads(path.read_text())["distributions"], seen_days(folder)
    new = [
        {
            "part": day,
            "accepted": profile["accepted"].get(day),
            "shifts": drift.compared(drift.total(profile, [day]), champion),
        }
        for day in days
        if day not in seen
    ]
    mine = drift.total(profile, days)
    shifts = drift.compared(mine, champion)
    return {"all": shifts, "days": new, "other_bins": sorted(mine.keys() - shifts.keys())}


def _dataset(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = manifests.load((folder / manifests.NAME).read_bytes()).lineage.get("dataset", {})
    return found
