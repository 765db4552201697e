"""Ingest against a landing folder: what it takes, what it leaves out, and that nothing half-done is ever visible."""

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.datasets.landing import LandingError
from pipelines.datasets.snapshot import SnapshotError
from pipelines.ingest import foresee, foretold, ingest, main, told
from pipelines.params.section import ParamsError
from tests.pipelines.small import checkout, digests, land, land_day, parquet, pixels, png, table

NIGHT = date(2026, 1, 31)


@pytest.fixture
def root(tmp_path: Path, landing: Path) -> Path:
    return checkout(tmp_path / "checkout", str(landing))


def run(root: Path, until: date = NIGHT, held: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return ingest("small", until, held or [], root)


def index(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "data/profiles/small/index.json").read_text())["partitions"]
    return found


def why(report: dict[str, Any]) -> dict[str, str]:
    return {day["date"]: day["why"] for day in report["taken"]}


def test_a_day_becomes_a_sorted_partition_a_profile_and_an_entry_of_the_index(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    report = run(root)

    partition = pq.read_table(root / "data/small/date=2026-01-01.parquet")
    assert partition.column_names == ["key", "label", "split", "image"]
    assert partition.schema.field("image").type == pa.binary(8 * 8 * 3)
    rows = partition.to_pylist()
    assert [(r["split"], r["key"]) for r in rows] == sorted((r["split"], r["key"]) for r in rows)
    key = hashlib.sha256(b"8x8x3:" + pixels(3).tobytes()).hexdigest()
    (mine,) = [r for r in rows if r["key"] == key]
    assert mine == {"key": key, "label": "dog", "split": "train", "image": pixels(3).tobytes()}

    profile = {r["key"]: r for r in pq.read_table(root / "data/profiles/small/date=2026-01-01.parquet").to_pylist()}
    assert profile[key]["source"] == "train.parquet#3"
    assert profile[key]["mean"] == pytest.approx(pixels(3).mean())
    assert profile[key]["std"] == pytest.approx(pixels(3).std())
    assert (profile[key]["min"], profile[key]["max"]) == (pixels(3).min(), pixels(3).max())
    assert [profile[key][c] for c in ("width", "height", "channels")] == [8, 8, 3]

    entry = index(root)["2026-01-01"]
    sha256 = hashlib.sha256((root / "data/small/date=2026-01-01.parquet").read_bytes()).hexdigest()
    assert (entry["rows"], entry["sha256"], entry["duplicates"]) == (60, sha256, 0)
    assert [(f["name"], f["rows"]) for f in entry["files"]] == [("test.parquet", 20), ("train.parquet", 40)]
    assert report["rows"] == 60
    assert report["changed"] == [
        "data/small/date=2026-01-01.parquet",
        "data/profiles/small/date=2026-01-01.parquet",
        "data/profiles/small/index.json",
    ]


def test_a_profile_has_small_pictures_of_some_records_of_each_label_and_of_the_strangest(
    root: Path, landing: Path
) -> None:
    images = [pixels(n) for n in range(200)]
    images[7], images[8], images[9] = (np.full((8, 8, 3), level, np.uint8) for level in (0, 255, 90))
    twice = [png(images[50])] * 2
    land(landing, "2026-01-01", {"a.parquet": parquet(table(range(200), image=[png(image) for image in images]))})
    land(landing, "2026-01-01", {"b.parquet": parquet(table([50, 51], image=twice, label=["cat", "dog"]))})
    run(root)
    rows = pq.read_table(root / "data/profiles/small/date=2026-01-01.parquet").to_pylist()
    shown = {row["source"]: row for row in rows if row["picture"]}
    assert {"a.parquet#7", "a.parquet#8", "a.parquet#9", "a.parquet#50", "b.parquet#1"} <= set(shown)
    assert Counter(row["label"] for row in shown.values()).most_common()[-1][1] >= 12
    assert len(shown) <= 24 + 3 * 6 + 2
    with Image.open(io.BytesIO(shown["a.parquet#50"]["picture"])) as picture:
        assert np.array_equal(np.asarray(picture), images[50])


def test_a_picture_of_a_large_image_is_small(tmp_path: Path, landing: Path) -> None:
    root = checkout(tmp_path / "large", str(landing))
    text = (root / "params.yaml").read_text().replace("      - 8\n      - 8\n", "      - 90\n      - 300\n", 1)
    (root / "params.yaml").write_text(text)
    image = png(np.random.default_rng(0).integers(0, 256, (90, 300, 3), np.uint8))
    land(landing, "2026-01-01", {"a.parquet": parquet(table([0], image=[image]))})
    run(root)
    (row,) = pq.read_table(root / "data/profiles/small/date=2026-01-01.parquet").to_pylist()
    with Image.open(io.BytesIO(row["picture"])) as picture:
        assert picture.size == (64, 19)


def test_two_folders_get_the_same_bytes(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100, tests=0)
    first, second = (checkout(tmp_path / name, str(landing)) for name in ("one", "two"))
    run(first)
    run(second, until=date(2026, 1, 1))
    run(second)
    assert digests(first / "data") == digests(second / "data")


def test_an_old_partition_is_not_needed_and_a_second_run_changes_nothing(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    for old in root.glob("data/**/*.parquet"):
        old.unlink()
    before = digests(root / "data")
    report = run(root)
    assert (report["taken"], report["changed"], report["rows"]) == ([], [], 60)
    assert digests(root / "data") == before

    land_day(landing, "2026-01-02", 100, tests=0)
    assert why(run(root)) == {"2026-01-02": "new"}
    assert list(index(root)) == ["2026-01-01", "2026-01-02"]
    assert not (root / "data/small/date=2026-01-01.parquet").exists()


def test_a_file_that_is_late_joins_its_own_day(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100, tests=0)
    run(root)
    land(landing, "2026-01-01", {"more.parquet": parquet(table(range(200, 210)))})
    report = run(root)
    assert why(report) == {"2026-01-01": "late file"}
    assert index(root)["2026-01-01"]["rows"] == 70


def test_a_day_that_arrives_a_week_late_is_taken_and_called_late(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-08", 0)
    run(root)
    land_day(landing, "2026-01-01", 100)
    assert why(run(root)) == {"2026-01-01": "late"}
    assert list(index(root)) == ["2026-01-01", "2026-01-08"]


def test_a_replaced_file_replaces_the_partition(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    land(landing, "2026-01-01", {"train.parquet": parquet(table(range(300, 330)))})
    assert why(run(root)) == {"2026-01-01": "replaced"}
    keys = set(pq.read_table(root / "data/small/date=2026-01-01.parquet")["key"].to_pylist())
    assert len(keys) == 50
    assert hashlib.sha256(b"8x8x3:" + pixels(0).tobytes()).hexdigest() not in keys


def test_a_day_that_arrives_twice_with_the_same_bytes_is_taken_once(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    before = digests(root / "data")
    land_day(landing, "2026-01-01", 0)
    for path in landing.rglob("*.parquet"):
        os.utime(path, (1, 1))
    assert run(root)["taken"] == []
    assert digests(root / "data") == before


def test_files_that_are_gone_from_the_landing_zone_stay_in_the_snapshot(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    (landing / "date=2026-01-01/test.parquet").unlink()
    assert run(root)["taken"] == []
    (landing / "date=2026-01-01/train.parquet").unlink()
    report = run(root)
    assert (report["taken"], report["left_out"], report["rows"]) == ([], [], 60)


def test_two_missed_nights_are_one_that_takes_all_their_days(root: Path, landing: Path) -> None:
    for n, day in enumerate(("2026-01-01", "2026-01-02", "2026-01-03")):
        land_day(landing, day, 100 * n)
    assert why(run(root)) == {"2026-01-01": "new", "2026-01-02": "new", "2026-01-03": "new"}


def test_days_after_until_wait(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100)
    report = run(root, until=date(2026, 1, 1))
    assert why(report) == {"2026-01-01": "new"}
    assert report["skipped_after_until"] == ["2026-01-02"]


def test_a_held_day_is_left_out_until_its_files_are_replaced(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100)
    checksum = run(checkout(root.parent / "other", str(landing)))["taken"][1]["checksum"]
    held = [{"date": "2026-01-02", "checksum": checksum, "reason": "too dark"}]

    report = run(root, held=held)
    assert why(report) == {"2026-01-01": "new"}
    assert report["held"] == held
    assert any("held, not taken: too dark" in line for line in told(report))

    land(landing, "2026-01-02", {"train.parquet": parquet(table(range(500, 540)))})
    assert why(run(root, held=held)) == {"2026-01-02": "new"}


def test_an_accepted_day_is_taken_and_marked_for_validation(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    checksum = run(checkout(root.parent / "other", str(landing)))["taken"][0]["checksum"]
    let_in = {"date": "2026-01-01", "checksum": checksum, "state": "accepted", "reason": "accepted by ann: a holiday"}
    assert why(run(root, held=[let_in])) == {"2026-01-01": "new"}
    assert index(root)["2026-01-01"]["accepted"] == "accepted by ann: a holiday"
    land(landing, "2026-01-01", {"train.parquet": parquet(table(range(500, 540)))})
    run(root, held=[let_in])
    assert "accepted" not in index(root)["2026-01-01"], "other files: about them nobody has decided anything"


def test_a_dropped_day_leaves_the_snapshot_and_does_not_come_back(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100)
    checksum = run(root)["taken"][1]["checksum"]
    dropped = [
        {"date": "2026-01-02", "checksum": checksum, "state": "dropped", "reason": "dropped by ann: mislabelled"}
    ]

    assert [day["date"] for day in foresee("small", NIGHT, dropped, root)["dropped"]] == ["2026-01-02"]
    report = run(root, held=dropped)
    assert report["dropped"] == [{"date": "2026-01-02", "reason": "dropped by ann: mislabelled"}]
    assert report["removed"] == ["data/small/date=2026-01-02.parquet", "data/profiles/small/date=2026-01-02.parquet"]
    assert not any((root / path).exists() for path in report["removed"])
    assert list(index(root)) == ["2026-01-01"]
    assert any("taken out: dropped by ann" in line for line in told(report))

    again = run(root, held=dropped)
    assert (again["dropped"], again["changed"], again["held"], again["taken"]) == ([], [], [], [])


def test_a_dropped_day_is_removed_also_where_its_files_are_not(root: Path, landing: Path) -> None:
    """As on a worker, which has the index alone."""
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100)
    checksum = run(root)["taken"][0]["checksum"]
    for path in [*(root / "data/small").glob("*.parquet"), *(root / "data/profiles/small").glob("*.parquet")]:
        path.unlink()
    report = run(root, held=[{"date": "2026-01-01", "checksum": checksum, "state": "dropped", "reason": "worn"}])
    assert len(report["removed"]) == 2
    assert report["changed"] == ["data/profiles/small/index.json"]
    assert list(index(root)) == ["2026-01-02"]


def test_records_that_cannot_be_used_are_quarantined_with_their_column_and_the_rest_is_taken(
    root: Path, landing: Path
) -> None:
    rows = table(range(12)).to_pydict()
    rows["image"][0] = b"not an image"
    rows["image"][1] = png(pixels(1))[:-40]
    rows["image"][2] = png(pixels(2)[:7])
    rows["image"][3] = png(pixels(3)[..., 0])
    rows["image"][4] = None
    rows["label"][5] = "dogg"
    rows["label"][6] = None
    split = ["train"] * 12
    split[7] = "validation"
    land(landing, "2026-01-01", {"a.parquet": parquet(pa.table(rows | {"split": split}))})

    report = run(root)
    assert report["rows"] == 4
    assert {q["file"] for q in report["quarantine"]} == {"date=2026-01-01/a.parquet"}
    reasons = {q["record"]: q["reason"] for q in report["quarantine"]}
    assert reasons == {
        "row 0": "image: is no readable PNG or JPEG (UnidentifiedImageError)",
        "row 1": reasons["row 1"],
        "row 2": "image: is 7x8, 8x8 is wanted",
        "row 3": "image: has 1 channels (L), 3 are wanted",
        "row 4": "image: is empty",
        "row 5": "label: 'dogg' is none of the data set's labels; did you mean dog?",
        "row 6": "label: None is none of the data set's labels (cat, dog)",
        "row 7": "split: 'validation' is neither train nor test",
    }
    assert reasons["row 1"].startswith("image: is no readable PNG")
    assert len(index(root)["2026-01-01"]["files"][0]["quarantined"]) == 8


def test_a_file_that_cannot_be_used_at_all_is_quarantined_whole_and_the_day_goes_on(root: Path, landing: Path) -> None:
    good = parquet(table(range(30)))
    # Damage within the pages, where the footer is still whole.
    torn = good[:100] + bytes(200) + good[300:]
    files = {
        "good.parquet": good,
        "truncated.parquet": good[: len(good) // 2],
        "torn.parquet": torn,
        "columns.parquet": parquet(table(range(5), label=None, name=["x"] * 5)),
        "types.parquet": parquet(table(range(5), label=[1] * 5)),
        "empty.parquet": b"",
        "notes.txt": b"hello",
        "loose.png": png(pixels(1)),
    }
    land(landing, "2026-01-01", files)
    report = run(root)
    assert report["rows"] == 30
    assert {q["record"] for q in report["quarantine"]} == {"the whole file"}
    reasons = {q["file"].removeprefix("date=2026-01-01/"): q["reason"] for q in report["quarantine"]}
    assert set(reasons) == set(files) - {"good.parquet"}
    assert reasons["columns.parquet"] == "has no column label (its columns: image, name)"
    assert reasons["types.parquet"] == "column label is int64, string is wanted"
    assert reasons["notes.txt"] == "is neither .parquet nor .png nor .jpg"
    assert reasons["loose.png"] == "label: an image lies below <label>/ or test/<label>/"
    for name in ("truncated.parquet", "torn.parquet", "empty.parquet"):
        assert reasons[name].startswith("is not whole, readable Parquet")


def test_a_day_without_a_readable_record_is_named_and_left_out(root: Path, landing: Path) -> None:
    land(landing, "2026-01-01", {"a.parquet": b"PAR1 no"})
    land_day(landing, "2026-01-02", 0)
    report = run(root)
    assert why(report) == {"2026-01-02": "new"}
    assert report["left_out"] == [{"date": "2026-01-01", "reason": "no readable record in 1 file(s)"}]
    assert report["quarantine"][0]["file"] == "date=2026-01-01/a.parquet"


def test_a_taken_day_that_becomes_unreadable_keeps_its_partition(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    before = digests(root / "data")
    for name in ("train.parquet", "test.parquet"):
        land(landing, "2026-01-01", {name: b"PAR1 no"})
    report = run(root)
    assert "the partition taken before stays" in report["left_out"][0]["reason"]
    assert digests(root / "data") == before


def test_an_empty_day_and_a_folder_that_is_no_day_are_named(root: Path, landing: Path) -> None:
    (landing / "date=2026-01-02").mkdir()
    land(landing, "2026-02-30", {"a.parquet": b""})
    (landing / "readme.txt").write_text("mine")
    land(landing, "2026-01-01", {"_SUCCESS": b"", ".part": b"", "train.parquet": parquet(table(range(20)))})
    report = run(root)
    assert why(report) == {"2026-01-01": "new"}
    assert report["quarantine"] == []
    assert {item["date"]: item["reason"] for item in report["left_out"]} == {
        "date=2026-02-30": "is no date=YYYY-MM-DD/ folder",
        "readme.txt": "is no date=YYYY-MM-DD/ folder",
        "2026-01-02": f"{landing}/date=2026-01-02/ is empty",
    }


def test_a_record_that_is_twice_in_a_day_is_dropped_and_counted(root: Path, landing: Path) -> None:
    twice = parquet(table([*range(20), *range(5)]))
    land(landing, "2026-01-01", {"a.parquet": twice, "b.parquet": parquet(table(range(3)))})
    report = run(root)
    assert (report["rows"], report["taken"][0]["duplicates"]) == (20, 8)
    assert index(root)["2026-01-01"]["duplicates"] == 8


def test_image_files_below_their_label_are_read_like_parquet(root: Path, landing: Path) -> None:
    files = {f"cat/{n}.png": png(pixels(n)) for n in range(0, 20, 2)}
    files |= {f"test/dog/{n}.PNG": png(pixels(n)) for n in range(1, 10, 2)}
    land(landing, "2026-01-01", files | {"bird/1.png": png(pixels(99))})
    report = run(root)
    rows = pq.read_table(root / "data/small/date=2026-01-01.parquet").to_pylist()
    assert sorted((r["split"], r["label"]) for r in rows) == [("test", "dog")] * 5 + [("train", "cat")] * 10
    assert [q["file"] for q in report["quarantine"]] == ["date=2026-01-01/bird/1.png"]


def test_a_data_set_that_is_too_old_is_called_stale_also_when_nothing_changed(root: Path, landing: Path) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["datasets"]["small"]["freshness_days"] = 3
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    land_day(landing, "2026-01-01", 0)
    assert run(root, until=date(2026, 1, 4))["stale"] is None
    stale = run(root, until=date(2026, 1, 5))["stale"]
    assert stale == "the newest day is 2026-01-01, 4 days before 2026-01-05; at most 3 are wanted"


def test_what_an_interrupted_ingest_left_is_removed_and_done_again(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    for left in ("data/small/.part-x", "data/small/date=2026-01-09.parquet", "data/profiles/small/.part-y"):
        (root / left).parent.mkdir(parents=True, exist_ok=True)
        (root / left).write_bytes(b"half")
    run(root)
    assert sorted(p.name for p in (root / "data").rglob("*") if p.is_file()) == [
        "date=2026-01-01.parquet",
        "date=2026-01-01.parquet",
        "index.json",
    ]


def test_a_full_disk_changes_nothing_is_said_and_the_next_run_finishes(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    run(root)
    before = digests(root / "data")
    land_day(landing, "2026-01-01", 300)
    land_day(landing, "2026-01-02", 100, count=400)
    command = [sys.executable, "-m", "pipelines.ingest", "small", "--until", "2026-01-31"]
    size = 40_000  # enough for the first day's partition, not for the second's

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(command, cwd=root, capture_output=True, text=True, preexec_fn=small_disk)
    assert done.returncode == 1
    assert "data/small/date=2026-01-02.parquet cannot be written" in done.stderr
    assert "nothing was changed: free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert digests(root / "data") == before

    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(index(root)) == ["2026-01-01", "2026-01-02"]


def test_a_snapshot_whose_index_was_not_pulled_is_refused(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    outs = [{"path": "data/profiles/small", "nfiles": 2, "md5": "x.dir", "hash": "md5"}]
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": outs}))
    with pytest.raises(SnapshotError, match=r"dvc pull data\.dvc"):
        run(root)
    assert not (root / "data/small/date=2026-01-01.parquet").exists()


def test_a_landing_folder_that_is_not_there_is_named(root: Path, landing: Path) -> None:
    landing.rmdir()
    with pytest.raises(LandingError, match=f"{landing} is not there"):
        run(root)


def test_nothing_landed_says_what_to_type(root: Path) -> None:
    report = run(root)
    assert (report["taken"], report["rows"]) == ([], 0)
    assert "nightshift land" in list(told(report))[-1]


def test_an_unknown_data_set_and_a_bad_date_are_wrong_use(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert main(["smal"]) == 2
    assert "datasets.smal is not there; did you mean small?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["small", "--until", "January"])
    assert ended.value.code == 2
    with pytest.raises(ParamsError):
        ingest("smal", NIGHT, [], root)


def test_the_command_writes_its_report_and_says_each_day(
    root: Path, landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    land_day(landing, "2026-01-01", 0)
    monkeypatch.chdir(root)
    Path("held.json").write_text("[]")
    assert main(["small", "--until", "2026-01-31", "--held", "held.json", "--report", "report.json"]) == 0
    assert json.loads(Path("report.json").read_text())["taken"][0]["rows"] == 60
    said = capsys.readouterr().out
    assert "2026-01-01  new: 60 rows from 2 file(s)" in said
    assert "small: 60 rows in the snapshot" in said


def test_what_is_foreseen_from_listings_alone_is_what_ingest_then_does(
    root: Path, landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, day in enumerate(("2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05")):
        land_day(landing, day, 100 * number, tests=10 * (not number))
    run(root)
    land(landing, "2026-01-01", {"train.parquet": parquet(table(range(500, 520)))})
    land(landing, "2026-01-02", {"more.parquet": parquet(table(range(520, 540)))})
    land(landing, "2026-01-03", {"train.parquet": parquet(table(range(540, 590)))})
    os.utime(landing / "date=2026-01-04" / "train.parquet", (0, 0))
    land_day(landing, "2026-01-06", 600, tests=0)
    (refused,) = [day for day in run(checkout(root.parent / "other", str(landing)))["taken"] if day["date"][-1] == "6"]
    held = [{name: refused[name] for name in ("date", "checksum", "landed")} | {"reason": "too dark"}]
    land_day(landing, "2026-01-07", 700, tests=0)
    land_day(landing, "2026-02-07", 800, tests=0)
    (landing / "date=2026-01-08").mkdir()
    (landing / "notes").mkdir()

    before = digests(root / "data")
    with monkeypatch.context() as nobody:
        nobody.setattr("pipelines.datasets.landing.Folder.read", lambda *_: pytest.fail("a file was read"))
        foreseen = foresee("small", NIGHT, held, root)
    assert digests(root / "data") == before
    done = run(root, held=held)

    sure = {day["date"]: day["why"] for day in foreseen["taken"] if day["sure"]}
    assert sure == why(done)
    assert sure == {"2026-01-01": "late", "2026-01-02": "late file", "2026-01-03": "replaced", "2026-01-07": "new"}
    assert [day["date"] for day in foreseen["taken"] if not day["sure"]] == ["2026-01-04"]
    assert [day["date"] for day in foreseen["held"]] == [day["date"] for day in done["held"]] == ["2026-01-06"]
    assert foreseen["left_out"] == done["left_out"]
    assert foreseen["skipped_after_until"] == done["skipped_after_until"] == ["2026-02-07"]
    assert any("unless it is the one that is there" in line for line in foretold(foreseen))


def test_a_held_day_whose_files_were_replaced_is_foreseen_as_taken(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    (day,) = run(checkout(root.parent / "other", str(landing)))["taken"]
    held = [{"date": day["date"], "checksum": day["checksum"], "landed": day["landed"], "reason": "too dark"}]
    assert foresee("small", NIGHT, held, root)["taken"] == []
    land(landing, "2026-01-01", {"train.parquet": parquet(table(range(70)))})
    assert why(foresee("small", NIGHT, held, root)) == {"2026-01-01": "new"}
