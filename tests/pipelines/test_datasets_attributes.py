"""Attributes beside the label: from the landed column to the row that the gate judges."""

import hashlib
import json
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.datasets import attributes
from pipelines.datasets.images_params import Records
from pipelines.ingest import ingest
from pipelines.params.section import ParamsError
from pipelines.prepare import prepare
from tests.pipelines.small import checkout, land, parquet, pixels, png, table


def ask_for(root: Path, *names: str) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["datasets"]["small"]["records"]["attributes"] = list(names)
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def taken(root: Path) -> None:
    ingest("small", date(2026, 1, 31), [], root)
    verdict = root / "artifacts/validations/small/verdict.json"
    verdict.parent.mkdir(parents=True, exist_ok=True)
    verdict.write_text('{"verdict": "pass"}')


def test_each_test_row_has_the_attributes_that_it_landed_with(tmp_path: Path) -> None:
    """Columns of a file, a file without them, an image that can have none, and a day from before they were wanted."""
    landing = tmp_path / "landing"
    root = checkout(tmp_path / "checkout", str(landing))
    tests = table(range(100, 130), "test", site=["oslo"] * 30)
    land(landing, "2026-01-01", {"train.parquet": parquet(table(range(20))), "test.parquet": parquet(tests)})
    taken(root)
    ask_for(root, "site", "age")
    sites, ages = ["bern", None, ""] * 10, list(range(30))
    with_both = table(range(200, 230), "test", site=sites, age=ages)
    files = {"with.parquet": parquet(with_both), "without.parquet": parquet(table(range(300, 310), "test"))}
    land(landing, "2026-01-02", files | {"test/cat/one.png": png(pixels(400))})
    taken(root)
    prepare("small", root)

    folder = root / "artifacts/datasets/small/test"
    found = json.loads((folder / "attributes.json").read_text())
    place = {}
    for day in ("2026-01-01", "2026-01-02"):
        for key in pq.read_table(root / f"data/small/date={day}.parquet", columns=["key"])["key"].to_pylist():
            place[key] = day
    keys = (folder / "keys.txt").read_text().split()
    assert list(found) == ["site", "age"]
    assert len(found["site"]) == len(found["age"]) == len(keys)
    by_key = dict(zip(keys, zip(found["site"], found["age"], strict=True), strict=True))
    assert {site for key, (site, _) in by_key.items() if place[key] == "2026-01-01"} == {"unknown"}
    second = {value for key, value in by_key.items() if place[key] == "2026-01-02"}
    assert {site for site, _ in second} == {"bern", "unknown"}
    number = {table_key(n): n for n in range(200, 230)}
    known = {number[key]: value for key, value in by_key.items() if key in number}
    assert known
    for n, (site, age) in known.items():
        assert (site, age) == (sites[n - 200] or "unknown", str(ages[n - 200]))


def table_key(number: int) -> str:
    return hashlib.sha256(b"8x8x3:" + pixels(number).tobytes()).hexdigest()


def test_a_data_set_without_attributes_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    root = checkout(tmp_path / "checkout", str(landing))
    train = table(range(40), site=["bern"] * 40)
    land(landing, "2026-01-01", {"a.parquet": parquet(train), "b.parquet": parquet(table(range(40, 80), "test"))})
    taken(root)
    prepare("small", root)
    names = pq.read_schema(root / "data/small/date=2026-01-01.parquet").names
    assert names == ["key", "label", "split", "image"]
    assert not (root / "artifacts/datasets/small/test/attributes.json").exists()


def test_a_partition_from_before_an_attribute_was_asked_for_says_unknown(tmp_path: Path) -> None:
    path = tmp_path / "date=2026-01-01.parquet"
    pq.write_table(table([1, 2]).append_column(f"{attributes.PREFIX}site", [["bern", "oslo"]]), path)
    assert attributes.read(path, ["age", "site"]) == {"age": ["unknown"] * 2, "site": ["bern", "oslo"]}


@pytest.mark.parametrize(("names", "said"), [(["label"], "it is ours"), (["site", "site"], "it is there twice")])
def test_a_name_that_is_taken_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(ParamsError, match=f"{names[0]} cannot be an attribute: {said}"):
        Records.check({"shape": [8, 8, 3], "labels": ["a", "b"], "attributes": names}, "records")
