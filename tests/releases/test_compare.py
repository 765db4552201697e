"""Two releases side by side."""

from pathlib import Path
from typing import Any

import pytest

from nightshift.releases import manifest as manifests
from nightshift.releases.compare import compare
from nightshift.releases.manifest import Manifest
from tests.releases.make import make_release


def made(folder: Path, seed: int, verdict: str, **lineage: Any) -> Manifest:
    make_release(folder, seed=seed, verdict=verdict, lineage=lineage)
    return manifests.verify(folder)


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Manifest, Manifest]:
    first = made(
        tmp_path / "a",
        0,
        "pass",
        dataset={
            "name": "d",
            "days": ["1", "2"],
            "partitions": {"1": "m1", "2": "m2"},
            "splits": {"test": {"rows": 5}},
        },
        code={"pipelines/train.py": "c1", "pipelines/gate.py": "g"},
        params={"train": {"epochs": 1, "seed": 0}},
        toolchain={"torch": "2.13.0"},
        opponent=None,
    )
    second = made(
        tmp_path / "b",
        1,
        "fail",
        dataset={
            "name": "d",
            "days": ["1", "3"],
            "partitions": {"1": "mX", "3": "m3"},
            "splits": {"test": {"rows": 6}},
        },
        code={"pipelines/train.py": "c2", "pipelines/gate.py": "g"},
        params={"train": {"epochs": 2, "seed": 0}},
        toolchain={"torch": "2.14.0"},
        opponent="f" * 64,
    )
    return first, second


def test_each_section_names_what_differs_and_nothing_else(releases: tuple[Manifest, Manifest]) -> None:
    found = compare(*releases, ({"accuracy": 0.5, "rows": 5}, {"accuracy": 0.6, "rows": 5}), (None, None))
    assert found["data"] == {
        "day 1": ("m1", "mX"),
        "day 2": ("m2", None),
        "day 3": (None, "m3"),
        "splits.test.rows": (5, 6),
    }
    assert found["code"] == {"pipelines/train.py": ("c1", "c2")}
    assert found["params"] == {"train.epochs": (1, 2)}
    assert found["toolchain"] == {"torch": ("2.13.0", "2.14.0")}
    assert found["metrics"] == {"accuracy": (0.5, 0.6)}
    assert found["release"]["verdict"] == ("pass", "fail")
    assert found["release"]["opponent"] == (None, "f" * 64)
    assert found["release"]["model digest"] == (releases[0].model_digest, releases[1].model_digest)


def test_a_release_does_not_differ_from_itself(releases: tuple[Manifest, Manifest]) -> None:
    first, _ = releases
    assert not any(compare(first, first, (None, None), (None, None)).values())


def test_releases_of_an_older_kind_are_compared_by_their_days_and_decisions(tmp_path: Path) -> None:
    old = made(tmp_path / "a", 0, "pass", dataset={"name": "d", "days": ["1"]})
    newer = made(tmp_path / "b", 0, "pass", dataset={"name": "d", "days": ["1", "2"]})
    found = compare(old, newer, (None, None), ({"accuracy": 0.5, "verdict": "pass"}, {"accuracy": 0.7}))
    assert found["data"] == {"day 2": (None, "?")}
    assert found["metrics"] == {"accuracy": (0.5, 0.7)}
