"""A small table that lands in a folder: customers with an income, and a checkout that reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pyarrow import csv

from tests.pipelines import small

LABELS = ["low", "high"]
COLUMNS = {
    "age": "number",
    "country": "category",
    "note": "text",
    "member": "boolean",
    "joined": "date",
}
DEMANDS: dict[str, Any] = {
    "min_rows": 10,
    "max_quarantined": 0.05,
    "max_repeated": 0.5,
    "min_label_share": 0.2,
    "drift": {"warn": 0.2, "stop": 0.5, "min_rows": 100},
    "distance": {"warn": 0.3, "stop": 1},
    "outliers": {"fence": 3, "max": 0.05},
    "max_missing": 0.1,
    "columns": {"age": {"range": [0, 120]}, "country": {"values": ["de", "fr", "us"]}},
}


def table(first: int, count: int, **columns: Any) -> pa.Table:
    """Customers ``first …``; ``columns`` replace or add columns, or take them away (None)."""
    draw = np.random.default_rng(first)
    found: dict[str, Any] = {
        "age": draw.normal(40, 8, count).round(3),
        "country": draw.choice(["de", "fr", "us"], count),
        "note": [f"customer {n:05}{'.' * (n * 7 % 10)}" for n in range(first, first + count)],
        "member": draw.random(count) < 0.3,
        "joined": draw.integers(0, 10**15, count).astype("M8[us]"),
        "income": [LABELS[n % 2] for n in range(count)],
    }
    return pa.table({name: values for name, values in (found | columns).items() if values is not None})


def as_csv(content: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    csv.write_csv(content, out)
    return out.getvalue().to_pybytes()


def land(landing: Path, day: str, first: int, count: int = 200, **columns: Any) -> None:
    small.land(landing, day, {"customers.parquet": small.parquet(table(first, count, **columns))})


def checkout(
    root: Path,
    landing: Path,
    reader: str = "rows",
    records: dict[str, Any] | None = None,
    validate: dict[str, Any] | None = None,
) -> Path:
    """A folder with a params.yaml for the data set ``small``; ``records`` and ``validate`` replace parts of its own."""
    small.checkout(root, str(landing))
    params = yaml.safe_load((root / "params.yaml").read_text())
    small_ = params["datasets"]["small"]
    small_["reader"] = reader
    small_["records"] = {"labels": LABELS, "label": "income", "columns": COLUMNS} | (records or {})
    small_["validate"] = DEMANDS | (validate or {})
    small_["prepare"] |= {"split": "hash", "frozen": small_["prepare"]["frozen"] | {"share": 0.3}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return root
