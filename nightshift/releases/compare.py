"""Two releases side by side: what went in, and what came of it. Pure functions over manifests and their files."""

from collections.abc import Mapping
from typing import Any

from nightshift.releases.manifest import Manifest

Pair = tuple[Any, Any]


def compare(a: Manifest, b: Manifest, metrics: Pair, decisions: Pair) -> dict[str, dict[str, Pair]]:
    """Per section what differs, by dotted name: (in a, in b), None where one has nothing of that name.

    ``metrics`` and ``decisions`` are the releases' ``metrics.json`` and ``decision.json``, or None.
    """
    data = [dict(each.lineage.get("dataset") or {}) for each in (a, b)]
    days = [_days(each) for each in data]
    for each in data:
        for name in ("days", "partitions", "md5"):
            each.pop(name, None)
    lineages = [each.lineage for each in (a, b)]
    figures = [found or _figures(decision) for found, decision in zip(metrics, decisions, strict=True)]
    return {
        "data": _differences(*data) | {f"day {day}": pair for day, pair in _differences(*days).items()},
        "code": _differences(*(dict(each.get("code") or {}) for each in lineages), flat=True),
        "params": _differences(*(dict(each.get("params") or {}) for each in lineages)),
        "toolchain": _differences(*(dict(each.get("toolchain") or {}) for each in lineages), flat=True),
        "metrics": _differences(*figures),
        "release": _differences(*(_release(each) for each in (a, b)), flat=True),
    }


def _release(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "model digest": manifest.model_digest,
        "verdict": manifest.verdict,
        "bytes": manifest.size,
        "opponent": manifest.lineage.get("opponent"),
        "signature": manifest.signature.model_dump(mode="json"),
        **{f"bytes of {file.path}": file.size for file in manifest.files},
    }


def _days(data: Mapping[str, Any]) -> dict[str, str]:
    """Each day's partition by its md5; an older release names only the days."""
    return dict(data.get("partitions") or dict.fromkeys(data.get("days") or (), "?"))


def _figures(decision: Any) -> dict[str, Any]:
    return {name: value for name, value in (decision or {}).items() if isinstance(value, int | float)}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], *, flat: bool = False) -> dict[str, Pair]:
    left, right = (dict(each) if flat else dict(_flatten(each)) for each in (a, b))
    names = sorted({*left, *right})
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def _flatten(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
