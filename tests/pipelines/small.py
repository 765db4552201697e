"""A small data set that lands in a folder: 8x8 colour images of two labels, and a checkout that reads it."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
LABELS = ["cat", "dog"]
SHAPE = [8, 8, 3]


def pixels(number: int) -> np.ndarray:
    """An image that differs for each number."""
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def table(numbers: Sequence[int], split: str | None = None, **columns: Any) -> pa.Table:
    """Landing rows: image ``n`` has the label ``LABELS[n % 2]``; ``columns`` replace or add columns."""
    found: dict[str, Any] = {
        "image": [png(pixels(n)) for n in numbers],
        "label": [LABELS[n % 2] for n in numbers],
    }
    if split:
        found["split"] = [split] * len(numbers)
    return pa.table({name: values for name, values in (found | columns).items() if values is not None})


def parquet(content: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(content, out)
    return out.getvalue()


def land(landing: Path, day: str, files: dict[str, bytes]) -> None:
    """Drops files into a day's folder, as a person does."""
    for name, data in files.items():
        path = landing / f"date={day}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def land_day(landing: Path, day: str, first: int, count: int = 40, tests: int = 20) -> None:
    """A good day: training rows ``first …`` and, if wanted, test rows after them."""
    files = {"train.parquet": parquet(table(range(first, first + count)))}
    if tests:
        files["test.parquet"] = parquet(table(range(first + count, first + count + tests), "test"))
    land(landing, day, files)


def checkout(root: Path, landing: str, **validate: Any) -> Path:
    """A folder with a params.yaml for the data set ``small``; ``validate`` replaces demands."""
    root.mkdir(parents=True, exist_ok=True)
    demands = {
        "min_rows": 10,
        "max_quarantined": 0.05,
        "max_repeated": 0.5,
        "drift": {"warn": 0.1, "stop": 0.5, "min_rows": 200},
        "min_label_share": 0.2,
        "mean": [40, 220],
        "min_std": 1,
        "max_outliers": 0.05,
    }
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = {
        "small": {
            "reader": "images",
            "landing": landing,
            "freshness_days": None,
            "records": {"shape": SHAPE, "labels": LABELS},
            "validate": demands | validate,
            "prepare": {
                "split": "official",
                "val": 0.2,
                "frozen": {"confirm": 0.4, "publish": 0.2, "least": 10, "renewed": []},
            },
        }
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    # The stages read their templates from the checkout that they run in.
    shutil.copytree(ROOT / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def digests(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
