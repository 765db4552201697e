"""What validate and prepare read of this checkout is among their deps, so that DVC sees every change of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml

from pipelines.ingest import ingest
from tests.pipelines import small, tables, test_texts
from tests.pipelines.small import ROOT, land_day

# Runs a stage and prints the files below its working directory that it opened or imported.
WATCHED = """
import json, os, runpy, sys
opened = set()
sys.addaudithook(lambda event, args: opened.add(args[0]) if event == "open" and isinstance(args[0], str) else None)
sys.argv = [sys.argv[1], sys.argv[2]]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
opened |= {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
paths = {os.path.relpath(path) for path in opened if path and os.path.isfile(path)}
print(json.dumps(sorted(path for path in paths if not path.startswith("..") and "__pycache__" not in path)))
"""


def images(root: Path, landing: Path) -> None:
    land_day(landing, "2026-01-01", 0)
    small.checkout(root, str(landing))


def rows(root: Path, landing: Path) -> None:
    tables.land(landing, "2026-01-01", 0)
    tables.checkout(root, landing)


def texts(root: Path, landing: Path) -> None:
    test_texts.put(landing, "2026-01-01", {"a.parquet": small.parquet(test_texts.texts(0))})
    test_texts.checkout(root, landing)


@pytest.mark.parametrize("stage", ["validate", "prepare"])
@pytest.mark.parametrize("reader", [images, rows, texts])
def test_all_that_a_stage_reads_is_among_its_deps(
    tmp_path: Path, stage: str, reader: Callable[[Path, Path], None]
) -> None:
    root = tmp_path / "checkout"
    reader(root, tmp_path / "landing")
    ingest("small", date(2026, 1, 31), [], root)
    if stage == "prepare":
        verdict = root / "artifacts/validations/small/verdict.json"
        verdict.parent.mkdir(parents=True)
        verdict.write_text('{"verdict": "pass"}')
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, f"pipelines.{stage}", "small"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (ROOT / "dvc.yaml").read_text().replace("${key}", "small").replace("${item.reader}", reader.__name__)
    described = yaml.safe_load(text)["stages"][stage]["do"]
    plots = [name for entry in described.get("plots", []) for name in entry]
    deps = [*described["deps"], *described["outs"], *described.get("metrics", []), *plots, "params.yaml"]

    used = json.loads(done.stdout.splitlines()[-1])
    assert f"pipelines/{stage}.py" in used
    empty = {path for path in used if path.endswith("__init__.py") and not (root / path).stat().st_size}
    unseen = {path for path in used if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)} - empty
    assert unseen == set()
    # And the other way round: a dep that nobody reads repeats the stage for nothing.
    unread = {dep for dep in described["deps"] if not any(path == dep or path.startswith(f"{dep}/") for path in used)}
    assert {dep for dep in unread if not dep.startswith("data/")} == set()
