"""The verdict on a snapshot: what refuses it, what only warns, which days are named, and that its bytes are stable."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.ingest import ingest
from pipelines.validate import main, validate
from tests.pipelines.small import checkout, digests, land, land_day, parquet, pixels, png, table

NIGHT = date(2026, 1, 31)


def judged(root: Path) -> dict[str, Any]:
    ingest("small", NIGHT, [], root)
    return validate("small", root)


def failures(verdict: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {item["expectation"]: (item["severity"], item["days"]) for item in verdict["failed"]}


def test_a_good_snapshot_passes_with_its_figures(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land_day(landing, "2026-01-02", 100, tests=0)
    verdict = judged(root := checkout(tmp_path / "checkout", str(landing)))
    figures = {"rows": 100, "days": 2, "train": 80, "test": 20, "quarantined": 0, "repeated": 0}
    assert verdict == {"verdict": "pass", **figures, "failed": []}
    assert json.loads((root / "artifacts/validations/small/verdict.json").read_text()) == verdict
    details = digests(root / "artifacts/validations/small/details")
    assert set(details) == {"days.json", "records.json", "failed.json"}
    days = {item["column"]: item for item in json.loads(details["days.json"])}
    assert days["rows"]["success"]
    assert days["rows"]["result"]["element_count"] == 2


def test_a_bad_day_is_refused_by_name_however_long_the_good_history(tmp_path: Path, landing: Path) -> None:
    for n in range(12):
        land_day(landing, f"2026-01-{n + 1:02}", 100 * n, tests=0)
    blank = [png(np.full((8, 8, 3), n, np.uint8)) for n in range(40)]
    land(landing, "2026-01-20", {"train.parquet": parquet(table(range(40), image=blank))})
    land(landing, "2026-01-21", {"train.parquet": parquet(table(range(2000, 2080, 2)))})
    land(landing, "2026-01-22", {"train.parquet": parquet(table(range(3000, 3008)))})
    broken = parquet(table(range(4000, 4040), image=[b"x"] * 4 + [png(pixels(n)) for n in range(4004, 4040)]))
    land(landing, "2026-01-23", {"train.parquet": broken})

    verdict = judged(checkout(tmp_path / "checkout", str(landing)))
    assert verdict["verdict"] == "refuse"
    assert failures(verdict) == {
        "At most 5.0% of a day's images are too dark, too bright or blank": ("critical", ["2026-01-20"]),
        "Each label has at least 20.0% of a day's training rows": ("critical", ["2026-01-21"]),
        "A day has at least 10 rows": ("critical", ["2026-01-22"]),
        "At most 5.0% of a day's records are quarantined": ("critical", ["2026-01-23"]),
    }
    messages = " ".join(item["message"] for item in verdict["failed"])
    assert "2026-01-22 has 8" in messages
    assert "2026-01-23 has 10.00%" in messages


def test_what_prepare_mends_by_itself_only_warns(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    again = table([*range(100, 130), 0, 1])
    other = table([2], label=["dog"])
    leaked = table([45], "train")
    files = {"a.parquet": parquet(again), "b.parquet": parquet(other), "c.parquet": parquet(leaked)}
    land(landing, "2026-01-02", files)
    verdict = judged(checkout(tmp_path / "checkout", str(landing)))
    assert verdict["verdict"] == "warn"
    assert verdict["repeated"] == 4
    assert failures(verdict) == {
        "No image is there twice": ("warning", ["2026-01-02"]),
        "No image has two labels": ("warning", ["2026-01-01", "2026-01-02"]),
        "No training row is also a test row": ("warning", ["2026-01-02"]),
    }


def test_labels_and_shapes_that_params_no_longer_has_are_refused(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    ingest("small", NIGHT, [], root)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(
        text.replace("      - dog\n", "      - wolf\n").replace("      - 8\n", "      - 9\n", 1)
    )
    verdict = validate("small", root)
    assert verdict["verdict"] == "refuse"
    found = failures(verdict)
    assert found["Every label is one of the data set's"] == ("critical", ["2026-01-01"])
    assert found["Every image is 9 pixels high"] == ("critical", ["2026-01-01"])
    report = (root / "artifacts/validations/small/report.html").read_text()
    assert "train.parquet#1" in report


def test_an_empty_snapshot_is_refused_with_what_to_type(tmp_path: Path, landing: Path) -> None:
    root = checkout(tmp_path / "checkout", str(landing))
    (root / "data/profiles/small").mkdir(parents=True)
    verdict = validate("small", root)
    assert (verdict["verdict"], verdict["rows"]) == ("refuse", 0)
    assert "`make night`" in verdict["failed"][0]["message"]
    assert "`nightshift land small` and `nightshift ingest small`" in verdict["failed"][0]["message"]
    assert "make night" in (root / "artifacts/validations/small/report.html").read_text()
    assert (root / "artifacts/validations/small/details").is_dir()


def test_twice_in_two_folders_gives_the_same_bytes_whatever_the_verdict(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    dark = [png(np.full((8, 8, 3), n % 7, np.uint8)) for n in range(30)]
    land(landing, "2026-01-02", {"a.parquet": parquet(table(range(30), image=dark)), "b.parquet": b"torn"})
    found = []
    for name in ("one", "a/longer/two"):
        root = checkout(tmp_path / name, str(landing))
        ingest("small", NIGHT, [], root)
        environment = os.environ | {
            "NIGHTSHIFT_HOME": str(tmp_path / name / ".nightshift"),
            "PYTHONHASHSEED": str(len(name)),
        }
        command = [sys.executable, "-m", "pipelines.validate", "small"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert "small: refuse, " in done.stdout
        found.append(digests(root / "artifacts"))
        docs = list((root / ".nightshift/datadocs/small").glob("index.html"))
        assert docs, "Great Expectations' own pages lie beside, outside DVC"
    assert found[0] == found[1]
    everything = b"".join(found[0].values()).decode()
    assert str(tmp_path) not in everything
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}", everything), "an id of Great Expectations"
    assert not re.search(r"20\d\d-\d\d-\d\dT\d\d", everything), "a time"


def test_what_the_days_look_like_is_kept_for_who_judges_models(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    land(landing, "2026-01-02", {"test.parquet": parquet(table(range(100, 110), "test"))})
    root = checkout(tmp_path / "checkout", str(landing), min_rows=1)
    judged(root)
    found = json.loads((root / "artifacts/validations/small/profile.json").read_text())
    assert found["accepted"] == {}
    assert found["distributions"]["label"] == {
        "bins": ["cat", "dog"],
        "days": {"2026-01-01": [20, 20], "2026-01-02": [0, 0]},
    }
    assert (root / "artifacts/validations/small/days.csv").read_text().splitlines() == [
        "date,rows,quarantined,shift", "2026-01-01,60,0.0,", "2026-01-02,10,0.0,",
    ]  # fmt: skip
    brightness = found["distributions"]["brightness"]
    assert brightness["bins"] == list(range(0, 256, 16))
    assert sum(brightness["days"]["2026-01-01"]) == 40


def test_a_run_leaves_nothing_from_before(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    root = checkout(tmp_path / "checkout", str(landing))
    stray = root / "artifacts/validations/small/details/stray.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    judged(root)
    assert not stray.exists()


def test_another_version_of_great_expectations_is_refused(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(tmp_path / "checkout", str(landing))
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(re.sub(r"great-expectations: .*", "great-expectations: 1.0.0", text))
    monkeypatch.chdir(root)
    assert main(["small"]) == 2
    assert "toolchain.great-expectations is 1.0.0" in capsys.readouterr().err
    assert not (root / "artifacts").exists()


def shifted(root: Path, **drift: Any) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["datasets"]["small"]["validate"]["drift"] = {"warn": 0.1, "stop": 0.5, "min_rows": 30} | drift
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_day_whose_pixels_are_inverted_and_a_day_of_mostly_one_label_are_refused(
    tmp_path: Path, landing: Path
) -> None:
    def dark(n: int) -> np.ndarray:
        return (pixels(n) // 2).astype(np.uint8)

    for day, first in (("2026-01-01", 0), ("2026-01-02", 100)):
        numbers = range(first, first + 60)
        land(landing, day, {"train.parquet": parquet(table(numbers, image=[png(dark(n)) for n in numbers]))})
    one = range(200, 260)
    labels = ["cat"] * 46 + ["dog"] * 14
    land(landing, "2026-01-03", {"t.parquet": parquet(table(one, image=[png(dark(n)) for n in one], label=labels))})
    inverted = range(300, 360)
    images = [png(255 - dark(n)) for n in inverted]
    land(landing, "2026-01-04", {"t.parquet": parquet(table(inverted, image=images))})
    shifted(root := checkout(tmp_path / "checkout", str(landing)), stop=0.25)
    verdict = judged(root)
    assert verdict["verdict"] == "refuse"
    stopped = {name: days for name, (severity, days) in failures(verdict).items() if severity == "critical"}
    assert stopped == {
        "A day's pixels shift by a PSI of at most 0.25": ["2026-01-04"],
        "A day's labels shift by a PSI of at most 0.25": ["2026-01-03"],
    }


def test_a_day_that_was_there_before_is_refused(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0, tests=0)
    land_day(landing, "2026-01-02", 0, tests=0)
    verdict = judged(checkout(tmp_path / "checkout", str(landing)))
    assert verdict["verdict"] == "refuse"
    assert failures(verdict)["At most 50% of a day's images were there before"] == ("critical", ["2026-01-02"])


def test_what_speaks_only_against_a_day_that_a_person_let_in_is_a_warning(tmp_path: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0, tests=0)
    land_day(landing, "2026-01-02", 0, tests=0)
    root = checkout(tmp_path / "checkout", str(landing))
    again = ingest("small", NIGHT, [], checkout(tmp_path / "other", str(landing)))["taken"][1]
    let_in = {"date": "2026-01-02", "checksum": again["checksum"], "state": "accepted", "reason": "accepted by ann: so"}
    ingest("small", NIGHT, [let_in], root)
    verdict = validate("small", root)
    assert verdict["verdict"] == "warn"
    (said,) = [item["message"] for item in verdict["failed"] if "there before" in item["message"]]
    assert said.endswith("(accepted by ann: so)")
