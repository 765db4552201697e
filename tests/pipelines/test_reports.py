"""The pages for people: what stands first, what is shown, and that nothing in them runs, in a real browser."""

import base64
import io
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.gate import decide
from pipelines.ingest import ingest
from pipelines.reports.page import render
from pipelines.tasks.image_classification.score import score
from pipelines.validate import validate
from tests.pipelines.small import checkout, land, land_day, parquet, pixels, png, table
from tests.pipelines.test_gate import counts, evaluation, moved, params

CHROMIUM = shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A good day, and one whose names are hostile, with dark images and records that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    landing = folder / "landing"
    land_day(landing, "2026-01-01", 0)
    dark = [png(np.full((8, 8, 3), n, np.uint8)) for n in range(6)]
    land(landing, "2026-01-02", {"<img src=x onerror=1>.parquet": parquet(table(range(0, 80, 2), label=[EVIL] * 40))})
    mixed = table(range(100, 160), image=[*dark, *(png(pixels(n)) for n in range(106, 156)), *[b"x"] * 4])
    land(landing, "2026-01-02", {"<script>alert(2).parquet": parquet(mixed)})
    root = checkout(folder / "checkout", str(landing))
    ingest("small", date(2026, 1, 31), [], root)
    return validate("small", root), (root / "artifacts/validations/small/report.html").read_text()


def test_the_report_runs_no_script_and_shows_hostile_names_as_text(bad_night: tuple[dict[str, Any], str]) -> None:
    _, report = bad_night
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in report
    assert "<script" not in report
    assert set(re.findall(r"<img src=.(.{22})", report)) == {"data:image/png;base64,"}
    assert "&lt;script&gt;alert(1)" in report, "a label"
    assert "&lt;img src=x onerror=1&gt;.parquet" in report, "a file with unusable records"
    assert "&lt;script&gt;alert(2).parquet#0" in report, "a file with failed records"
    assert "://" not in report


def test_the_report_says_the_cause_and_what_to_type_before_anything_else(bad_night: tuple[dict[str, Any], str]) -> None:
    verdict, report = bad_night
    assert verdict["verdict"] == "refuse"
    order = [
        "refuse</span>",
        "are too dark, too bright or blank”, but 2026-01-02 has 10.71%; 1 more reason(s) below.",
        "nightshift drop small 2026-01-02 --reason",
        "nightshift accept small 2026-01-02 --reason",
        "What failed",
        "2026-01-02, closely",
    ]
    places = [report.index(words) for words in order]
    assert places == sorted(places)
    assert "nightshift drop small 2026-01-01" not in report


def test_the_report_shows_the_worst_records_and_what_the_day_looks_like(bad_night: tuple[dict[str, Any], str]) -> None:
    _, report = bad_night
    closely = report[report.index("2026-01-02, closely") : report.index("<h2>Days")]
    worst = closely[closely.index("mean is within 40 and 220") : closely.index("Ordinary records of 2026-01-02")]
    shown = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", worst)]
    with Image.open(io.BytesIO(shown[0])) as darkest:
        assert np.asarray(darkest).max() == 0
    assert [np.asarray(Image.open(io.BytesIO(one))).max() for one in shown[:6]] == [0, 1, 2, 3, 4, 5]
    assert "For comparison, of 2026-01-01" in closely
    assert closely.count('aria-label="Shares of ') == 3, "labels, brightness and contrast beside the days before"


def test_the_report_names_quarantined_records_with_their_reasons_and_rate(
    bad_night: tuple[dict[str, Any], str],
) -> None:
    _, report = bad_night
    quarantine = report[report.index("44 record(s) in quarantine, 44.00 % of the day") :]
    assert '<td>40</td><td class="text">label: &#39;&lt;script&gt;alert(1)&lt;/script&gt;&#39; is none of' in quarantine
    assert '<td>4</td><td class="text">image: is no readable PNG or JPEG' in quarantine
    assert "&lt;script&gt;alert(2).parquet, row 56" in quarantine


@pytest.fixture(scope="module")
def decided() -> str:
    """The gate's page on a model whose names are hostile, and which met a champion."""
    scores = score(np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), np.array([0, 1, 1]), [EVIL, "b"], 5)
    slices = [{"slice": EVIL, **counts(20, 20, 500)}, {"slice": "much worse", **counts(90, 5, 500)}]
    drift = {"all": moved("", 0.2)["shifts"], "days": [moved(EVIL, 0.6)], "other_bins": []}
    metrics, compared = evaluation((400, 500), (400, 500), slices=slices, perturbations=slices[:1], drift=drift)
    decision = decide(metrics, compared, params())
    shown = {"challenger": scores, "champion": scores}
    return render("gate.html", model=EVIL, decision=decision, metrics=metrics, **shown)


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed (apt-get install chromium)")
def test_in_a_browser_nothing_runs_or_is_fetched_and_every_picture_is_seen(
    bad_night: tuple[dict[str, Any], str], decided: str, tmp_path: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    pages = {"validation": bad_night[1], "decision": decided}
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text)
    found: dict[tuple[str, int], Any] = {}
    problems: list[str] = []
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for name in pages:
            for width, scheme in ((1200, "light"), (360, "dark")):
                context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
                context.set_default_timeout(60_000)
                page = context.new_page()
                page.on("console", lambda message: problems.append(message.text))
                page.on("dialog", lambda dialog: problems.append(dialog.message))
                page.on("request", lambda request: asked.append(request.url))
                page.goto((tmp_path / f"{name}.html").as_uri())
                found[name, width] = page.evaluate(
                    "({scripts: document.scripts.length, wide: document.documentElement.scrollWidth,"
                    " unseen: [...document.images].filter(image => !image.naturalWidth).length,"
                    " pictures: document.images.length, plots: document.querySelectorAll('svg').length,"
                    " text: document.body.innerText})"
                )
                context.close()
        browser.close()
    assert problems == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    for (name, width), page in found.items():
        assert (page["scripts"], page["unseen"]) == (0, 0), name
        assert page["wide"] <= width, "a phone scrolls only downwards"
        assert EVIL in page["text"], "it is shown as it is written"
        assert page["plots"] >= 5
    assert found["validation", 1200]["pictures"] > 20
