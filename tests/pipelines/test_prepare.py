"""Prepared rows: who goes where, that it stays so, and that the bytes follow from the partitions alone."""

import hashlib
import json
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.ingest import ingest
from pipelines.params.section import ParamsError
from pipelines.prepare import PrepareError, main, prepare
from tests.pipelines.small import LABELS, checkout, digests, land, land_day, parquet, pixels, table

NIGHT = date(2026, 1, 31)


def prepared(root: Path, verdict: str = "pass") -> dict[str, Any]:
    ingest("small", NIGHT, [], root)
    judge(root, verdict)
    return prepare("small", root)


def judge(root: Path, verdict: str) -> None:
    folder = root / "artifacts/validations/small"
    folder.mkdir(parents=True, exist_ok=True)
    failed = [{"severity": "critical", "message": "A day has at least 10 rows: 2026-01-02 has 3"}]
    (folder / "verdict.json").write_text(json.dumps({"verdict": verdict, "failed": failed}))


def rows(root: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    folder = root / "artifacts/datasets/small" / split
    return np.load(folder / "x.npy"), np.load(folder / "y.npy"), (folder / "keys.txt").read_text().split()


FROZEN = ("test", "confirm", "publish")


def key(number: int) -> str:
    return hashlib.sha256(b"8x8x3:" + pixels(number).tobytes()).hexdigest()


def test_each_row_has_its_image_label_and_key(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100, tests=0)
    described = prepared(root := checkout(tmp_path / "checkout", str(landing)))
    number = {key(n): n for n in range(200)}
    for split in ("train", "val", *FROZEN):
        x, y, keys = rows(root, split)
        assert (x.dtype, y.dtype, x.shape[1:]) == (np.uint8, np.int64, (8, 8, 3))
        assert len(x) == len(y) == len(keys) == described["splits"][split]["rows"]
        for image, label, k in zip(x, y, keys, strict=True):
            assert np.array_equal(image, pixels(number[k]))
            assert LABELS[label] == LABELS[number[k] % 2]
    assert sorted(number[k] for split in FROZEN for k in rows(root, split)[2]) == list(range(40, 60))
    assert described["labels"] == LABELS
    assert described["shape"] == [8, 8, 3]
    assert described["days"] == ["2026-01-01", "2026-01-02"]
    assert described["partitions"] == {
        day: hashlib.md5((root / f"data/small/date={day}.parquet").read_bytes()).hexdigest()
        for day in described["days"]
    }
    assert 5 <= described["splits"]["val"]["rows"] <= 30
    assert sum(described["splits"][s]["rows"] for s in ("train", "val")) == 80
    assert json.loads((root / "artifacts/datasets/small/dataset.json").read_text()) == described


def test_the_digest_of_a_split_is_that_of_its_three_files(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    described = prepared(root := checkout(tmp_path / "checkout", str(landing)))
    folder = root / "artifacts/datasets/small/test"
    content = b"".join((folder / name).read_bytes() for name in ("x.npy", "y.npy", "keys.txt"))
    assert described["splits"]["test"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_new_day_moves_no_row_to_another_split_and_leaves_test_as_it_was(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    before = prepared(root)
    train, val = rows(root, "train")[2], rows(root, "val")[2]
    land_day(landing, "2026-01-02", 100, tests=0)
    after = prepared(root)
    assert [after["splits"][split] for split in FROZEN] == [before["splits"][split] for split in FROZEN]
    assert rows(root, "train")[2][: len(train)] == train
    assert rows(root, "val")[2][: len(val)] == val


def test_an_image_is_in_one_place_and_never_trained_on_when_it_is_a_test_row(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    repeated = table([*range(100, 110), 3, 4, 45])  # 45 is a test row of day one
    later_test = table([5, 200, 201], "test")  # 5 is a training row of day one
    other_label = table([6], label=["dog"])
    files = {"a.parquet": parquet(repeated), "b.parquet": parquet(later_test), "c.parquet": parquet(other_label)}
    land(landing, "2026-01-02", files)
    described = prepared(root := checkout(tmp_path / "checkout", str(landing)))
    test = {key for split in FROZEN for key in rows(root, split)[2]}
    others = [*rows(root, "train")[2], *rows(root, "val")[2]]
    assert len(others) == len(set(others))
    assert test.isdisjoint(others)
    assert {key(45), key(5), key(200)} <= test
    assert described["dropped"] == 5
    _, y, keys = rows(root, "train") if key(6) in rows(root, "train")[2] else rows(root, "val")
    assert LABELS[y[keys.index(key(6))]] == "cat", "the day that brought it first says what it is"


def test_twice_in_two_folders_gives_the_same_bytes(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100, tests=0)
    found = []
    for name in ("one", "a/longer/two"):
        root = checkout(tmp_path / name, str(landing))
        ingest("small", NIGHT, [], root)
        judge(root, "warn")
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.prepare", "small"], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "rows from 2 day(s)" in done.stdout
        found.append(digests(root / "artifacts/datasets"))
    assert found[0] == found[1]
    assert len(found[0]) == 16


def test_a_refused_snapshot_is_not_prepared_and_what_was_there_stays(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    prepared(root)
    before = digests(root / "artifacts/datasets")
    judge(root, "refuse")
    monkeypatch.chdir(root)
    assert main(["small"]) == 1
    said = capsys.readouterr().err
    assert "validation refused this snapshot: A day has at least 10 rows: 2026-01-02 has 3" in said
    assert "artifacts/validations/small/report.html" in said
    assert digests(root / "artifacts/datasets") == before


def test_a_snapshot_that_nobody_judged_is_not_prepared(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    ingest("small", NIGHT, [], root)
    with pytest.raises(PrepareError, match="dvc repro validate@small"):
        prepare("small", root)


def test_a_snapshot_without_test_rows_says_how_to_mark_them(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0, tests=0)
    with pytest.raises(PrepareError, match="has no test rows") as raised:
        prepared(checkout(tmp_path / "checkout", str(landing)))
    assert "column split, or a folder test/" in str(raised.value)


def test_labels_or_shapes_changed_after_ingest_are_named_with_the_partition(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    prepared(root)
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("      - dog\n", "      - wolf\n"))
    with pytest.raises(PrepareError, match=r"date=2026-01-01.parquet has the label 'dog'"):
        prepare("small", root)
    (root / "params.yaml").write_text(params.replace("      - 8\n", "      - 9\n", 1))
    with pytest.raises(PrepareError, match=r"date=2026-01-01.parquet: its images have 192 bytes"):
        prepare("small", root)
    assert not list((root / "artifacts/datasets").glob(".*"))


def test_a_full_disk_is_said_and_leaves_the_rows_of_before(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    prepared(root)
    before = digests(root / "artifacts/datasets")
    land_day(landing, "2026-01-02", 100, count=400)
    ingest("small", NIGHT, [], root)

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    command = [sys.executable, "-m", "pipelines.prepare", "small"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, preexec_fn=small_disk)
    assert done.returncode == 1
    assert "artifacts/datasets/small cannot be written (File too large): free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert digests(root / "artifacts/datasets") == before


def frozen_rows(root: Path) -> set[str]:
    return {k for split in FROZEN for k in rows(root, split)[2]}


def set_prepare(root: Path, split: str, **frozen: Any) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    prepare_ = params["datasets"]["small"]["prepare"]
    prepare_["split"] = split
    prepare_["frozen"] |= frozen
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_key_decides_its_share_for_ever(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0, count=10, tests=200)
    root = checkout(tmp_path / "checkout", str(landing))
    before = prepared(root)
    counts = [before["splits"][split]["rows"] for split in FROZEN]
    assert sum(counts) == 200
    assert all(abs(n - share * 200) < 30 for n, share in zip(counts, (0.4, 0.4, 0.2), strict=True)), counts
    kept = {split: set(rows(root, split)[2]) for split in FROZEN}
    land_day(landing, "2026-01-02", 1000, count=10, tests=50)
    prepared(root)
    assert all(kept[split] < set(rows(root, split)[2]) for split in FROZEN)


def test_by_hash_a_share_of_all_rows_is_frozen_and_stays_so(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0, count=200, tests=0)
    root = checkout(tmp_path / "checkout", str(landing))
    set_prepare(root, "hash", share=0.3)
    prepared(root)
    first = frozen_rows(root)
    assert 40 <= len(first) <= 80
    land_day(landing, "2026-01-02", 300, count=100, tests=0)
    prepared(root)
    assert first < frozen_rows(root)
    assert frozen_rows(root).isdisjoint([*rows(root, "train")[2], *rows(root, "val")[2]])


@pytest.mark.parametrize(("split", "tests"), [("official", 40), ("hash", 0)])
def test_renewed_rows_judge_once_there_are_enough_and_are_trained_on_never_before(
    tmp_path: Path, landing: Path, split: str, tests: int
) -> None:
    land_day(landing, "2026-01-01", 0, count=100, tests=tests)
    root = checkout(tmp_path / "checkout", str(landing))
    share = {"share": 0.4} if split == "hash" else {}
    set_prepare(root, split, least=30, **share)
    found = prepared(root)["frozen"]
    assert (found["edition"], found["waiting"], found["retired"], found["least"]) == ("start", 0, 0, 30)
    old = frozen_rows(root)

    set_prepare(root, split, renewed=[{"from": "2026-01-02", "reason": "worn"}])
    land_day(landing, "2026-01-02", 1000, count=40, tests=tests // 2)
    described = prepared(root)
    assert described["frozen"]["edition"] == "start"
    assert 0 < described["frozen"]["waiting"] < 30
    assert frozen_rows(root) == old, "too few fresh rows: those of before go on"
    trained = {*rows(root, "train")[2], *rows(root, "val")[2]}

    land_day(landing, "2026-01-03", 2000, count=60, tests=tests // 2)
    described = prepared(root)
    assert described["frozen"]["edition"] == "2026-01-02"
    fresh = frozen_rows(root)
    assert len(fresh) >= 30
    assert fresh.isdisjoint(old)
    assert fresh.isdisjoint(trained), "what judges now was never trained on while it waited"
    now_trained = {*rows(root, "train")[2], *rows(root, "val")[2]}
    if split == "official":
        assert old.isdisjoint(now_trained), "what the source marks as test rows is never trained on"
        assert described["frozen"]["retired"] == len(old)
    else:
        assert old < now_trained


def land_days(landing: Path, first: int, last: int) -> None:
    for n in range(first, last + 1):
        land_day(landing, f"2026-01-{n:02}", 1000 * n, count=40, tests=0)


def days_of(root: Path, split: str) -> set[int]:
    number = {key(1000 * day + n): day for day in range(1, 11) for n in range(40)}
    return {number[k] for k in rows(root, split)[2]}


def test_by_time_the_newest_days_judge_and_no_model_is_trained_on_them(tmp_path: Path, landing: Path) -> None:
    land_days(landing, 1, 4)
    root = checkout(tmp_path / "checkout", str(landing))
    set_prepare(root, "time", days=2)
    described = prepared(root)
    assert {split: days_of(root, split) for split in ("train", "val", *FROZEN)} == {
        "train": {1, 2}, "val": {1, 2}, "test": {3, 4}, "confirm": {3, 4}, "publish": {3, 4}
    }  # fmt: skip
    assert described["frozen"] == {
        "split": "time", "share": None, "edition": "2026-01-03", "waiting": 0, "retired": 0, "least": 10,
        "newest": "2026-01-04", "trained_until": "2026-01-02",
    }  # fmt: skip
    share = {k: split for split in FROZEN for k in rows(root, split)[2]}

    # Day 5 is not there, so the calendar's window of two days has one of the snapshot; an old image is not judged by.
    repeated = parquet(table([*range(6000, 6040), 1003]))
    land(landing, "2026-01-06", {"a.parquet": repeated})
    described = prepared(root)
    assert (described["frozen"]["edition"], described["frozen"]["trained_until"]) == ("2026-01-05", "2026-01-04")
    assert all(days_of(root, split) == {6} for split in FROZEN)
    assert set(share) < {*rows(root, "train")[2], *rows(root, "val")[2]}, "what judged is learnt once it has left"
    assert described["rows_per_day"]["test"] == {"2026-01-06": described["splits"]["test"]["rows"]}

    # A late day inside the window joins it, and each row that stays keeps its share.
    share = {k: split for split in FROZEN for k in rows(root, split)[2]}
    land_days(landing, 5, 5)
    prepared(root)
    assert all(days_of(root, split) == {5, 6} for split in FROZEN)
    assert all(k in rows(root, split)[2] for k, split in share.items())


def test_by_time_one_day_is_not_enough_and_a_window_is_not_renewed(tmp_path: Path, landing: Path) -> None:
    land_days(landing, 1, 1)
    root = checkout(tmp_path / "checkout", str(landing))
    set_prepare(root, "time", days=3)
    with pytest.raises(PrepareError, match=r"has no train rows. With `split: time` the newest frozen.days days judge"):
        prepared(root)
    for frozen, said in [
        ({"renewed": [{"from": "2026-01-02", "reason": "worn"}]}, "split: time takes no frozen.renewed"),
        ({"renewed": [], "days": None}, "split: time needs frozen.days"),
        ({"days": 2, "share": 0.2}, "split: time takes no frozen.share"),
    ]:
        set_prepare(root, "time", **frozen)
        with pytest.raises(ParamsError, match=said):
            prepare("small", root)
