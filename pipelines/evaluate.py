"""``python -m pipelines.evaluate MODEL``: the exported program and its opponent, on the same test rows.

    model.onnx ──┐                                ┌─ metrics.json
                 ├─ test confirm publish ─ score ─┼─ confusion.csv calibration.csv per_class.csv slices.csv drift.csv
    champion ────┘                                └─ details/scores.json compared.json predictions.parquet

What is judged is what is served: ONNX Runtime answers, and its answers are compared with those of the weights. The
champion is the release that ``champions/<model>.json`` names, fetched by its digest and verified. What the confirm rows
say stands only in ``compared.json``, where the gate looks when the test rows have passed.
"""

import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from nightshift.releases.errors import ReleaseError
from pipelines.params.evaluate import Evaluate, Slices
from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import demand, threads
from pipelines.programs.champion import drifted, fetch, seen_days, seen_frozen
from pipelines.programs.cost import cost
from pipelines.statistics.shares import wilson

BATCH = 500
FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "ece", "ece_low", "ece_high")
VALUES = 30  # of an attribute that are slices of their own; the rarer ones are one slice together
Floats = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def main(model: str) -> None:
    demand("numpy", "onnx", "onnxruntime", "pyarrow", "torch")
    params = Evaluate.load("models", model, "evaluate")
    entry = at(read(), "models", model)
    names = ("module", "records", "score", "served", "perturb")
    task, records, score, served, perturb = (import_module(f"pipelines.tasks.{entry['task']}.{name}") for name in names)
    data, made = Path("artifacts/datasets", entry["dataset"]), Path("artifacts/models", model)
    described = json.loads((data / "dataset.json").read_text())
    labels, splits = described["labels"], described["splits"]
    test, confirm, publish, val = (records.load(data / split) for split in ("test", "confirm", "publish", "val"))
    profile = json.loads(Path("artifacts/validations", entry["dataset"], "profile.json").read_text())
    pinned = json.loads(Path("champions", f"{model}.json").read_text())
    opponent = pinned["digest"]
    folder = fetch(model, opponent, described) if opponent else None
    seen = seen_frozen(folder, described["frozen"]) if folder else set()
    fresh = {split: unseen(described["rows_per_day"][split], seen) for split in ("test", "confirm")}
    met = judgeable(fresh, described["frozen"]["least"])
    if not met["enough"]:
        folder, fresh = None, {split: np.full(len(mask), True) for split, mask in fresh.items()}
    test, confirm = only(test, fresh["test"]), only(confirm, fresh["confirm"])
    files = [made / "model.onnx", *([folder / "model.onnx"] if folder else [])]

    # Challenger first, champion second if there is one; the same on all rows.
    programs = [served.program(file) for file in files]
    answers = [answer(test.x) for answer in programs]
    weights = answers_of_weights(task, entry["family"], described, made / "weights.safetensors", test.x)
    readable = [np.clip(np.nan_to_num(found), 0, 1) for found in answers]  # the gate fails what is not finite
    parts = slices(test.y, labels, params.slices) | by_attribute(data / "test" / "attributes.json", fresh["test"])
    groups = {name: mask for name, mask in parts.items() if not name.startswith("label ")}  # those have a table
    scores = [score.score(found, test.y, labels, params.bins, groups) for found in readable]

    def right(answer: Callable[[Any], Floats], x: Any, y: Ints) -> Mask:
        return answer(x).argmax(1) == y

    on_test = [found.argmax(1) == test.y for found in answers]
    perturbed = {}
    for name in params.perturbations:
        worse = perturb.PERTURBATIONS[name](test.x)
        perturbed[name] = [right(answer, worse, test.y) for answer in programs]
    published = int(right(programs[0], publish.x, publish.y).sum())
    low, high = wilson(published, len(publish.y))
    metrics = {
        # On the rows that no decision reads: these may be quoted.
        "accuracy": score.rounded(published / len(publish.y)),
        "accuracy_low": score.rounded(low),
        "accuracy_high": score.rounded(high),
        "rows": len(publish.y),
        "frozen": {**described["frozen"], "looks": pinned.get("looks", 0), "promotions": pinned.get("promotions", 0)},
        "test": {"rows": len(test.y), "sha256": splits["test"]["sha256"], **_figures(scores[0])},
        "program": {
            **compare(answers[0], weights),
            "max_difference_allowed": params.max_difference,
            **cost(files[0]),
        },
        "perturbed": {name: score.rounded(pair[0].mean()) for name, pair in perturbed.items()},
        "opponent": opponent,
        "met": met,
        "champion": {**_figures(scores[1]), **cost(files[1])} if folder else None,
        "paired": paired(*on_test) if folder else None,
        "same_program": bool(folder and _sha256(files[1]) == _sha256(files[0])),
    }
    compared: dict[str, Any] | None = None
    if folder:
        confirmed = [right(answer, confirm.x, confirm.y) for answer in programs]
        compared = {
            "confirm": {
                "rows": len(confirm.y),
                "sha256": splits["confirm"]["sha256"],
                "paired": paired(*confirmed),
            },
            "slices": [{"slice": name, **paired(*(found[mask] for found in on_test))} for name, mask in parts.items()],
            "perturbations": [{"slice": name, **paired(*pair)} for name, pair in perturbed.items()],
            "new_days": new_days(described["rows_per_day"]["val"], seen_days(folder), right(programs[1], val.x, val.y)),
            "drift": drifted(folder, list(described["rows_per_day"]["train"]), profile),
        }
    metrics["drift"] = {row["of"]: row["psi"] for row in drifts(compared) if row["of"].startswith("all")}
    table = predictions(test, labels, answers[0], answers[1] if folder else None)
    write(Path("artifacts/evaluations", model), metrics, scores, compared, table)
    against = f", champion {scores[1]['accuracy']:.4f}" if folder else ", no champion"
    print(f"evaluate {model}: accuracy {scores[0]['accuracy']:.4f} on {len(test.y)} test rows{against}", flush=True)


def unseen(rows_per_day: dict[str, int], seen: set[str]) -> Mask:
    """Which rows of a split, in the order of days, are of none of the days ``seen``."""
    return np.repeat([day not in seen for day in rows_per_day], list(rows_per_day.values()))


def judgeable(fresh: dict[str, Mask], least: int) -> dict[str, Any]:
    """Whether ``enough`` frozen rows are left that the champion was not trained on, and how many are ``left_out``."""
    left = [int(mask.sum()) for mask in fresh.values()]
    out = sum(len(mask) for mask in fresh.values()) - sum(left)
    return {"rows": sum(left), "left_out": out, "least": least, "enough": not out or min(*left, sum(left) // least) > 0}


def only(rows: Any, which: Mask) -> Any:
    """Some rows of a split."""
    keys = [key for key, wanted in zip(rows.keys, which, strict=True) if wanted]
    return rows._replace(x=rows.x[which], y=rows.y[which], keys=keys)


def slices(y: Ints, labels: list[str], wanted: Slices) -> dict[str, Mask]:
    """Which test rows each slice has.

    Raises:
        ParamsError: a group names a label that the data set has not.
    """
    found = {f"label {label}": y == i for i, label in enumerate(labels)} if wanted.labels else {}
    for name, members in wanted.groups.items():
        for label in members:
            if label not in labels:
                raise ParamsError(f"params.yaml: the group {name} names {label!r}, which is no label of the data set")
        found[f"group {name}"] = np.isin(y, [labels.index(label) for label in members])
    return found


def by_attribute(file: Path, used: Mask) -> dict[str, Mask]:
    """Which of the ``used`` test rows each value of each attribute has, those with most rows first."""
    found: dict[str, Mask] = {}
    for name, values in json.loads(file.read_text()).items() if file.exists() else ():
        column = np.array(values)[used]
        ordered = [value for value, _ in Counter(sorted(column.tolist())).most_common()]
        found |= {f"{name} {value}": column == value for value in ordered[:VALUES]}
        if ordered[VALUES:]:
            found[f"{name}, the {len(ordered) - VALUES} rarest"] = np.isin(column, ordered[VALUES:])
    return found


def new_days(val_days: dict[str, int], seen: set[str], right: Mask) -> list[dict[str, Any]]:
    """How often the champion has the labels right of the ``val`` rows of each day that it has not seen."""
    found, start = [], 0
    for day, rows in val_days.items():
        if day not in seen:
            found.append({"day": day, "rows": rows, "right": int(right[start : start + rows].sum())})
        start += rows
    return found


def paired(challenger: Mask, champion: Mask) -> dict[str, int]:
    """Two models on the same rows, given which each has right: ``b`` only the champion, ``c`` only the challenger."""
    return {
        "both_right": int((challenger & champion).sum()),
        "b": int((~challenger & champion).sum()),
        "c": int((challenger & ~champion).sum()),
        "both_wrong": int((~challenger & ~champion).sum()),
    }


def answers_of_weights(
    task: ModuleType, family: str, described: dict[str, Any], file: Path, x: np.ndarray[Any, Any]
) -> Floats:
    """What the weights themselves answer to ``x``, float32 ``[n, classes]``."""
    torch.set_num_threads(threads())
    build = import_module(f"pipelines.families.{family}").build
    classifier = task.module(build, described["shape"], described["labels"])
    classifier.load_state_dict(load_file(file))
    served = task.Served(classifier).eval()
    with torch.inference_mode():
        parts = [served(torch.from_numpy(x[i : i + BATCH])).numpy() for i in range(0, len(x), BATCH)]
    return np.concatenate(parts)


def compare(program: Floats, weights: Floats) -> dict[str, Any]:
    """The exported program's answers against those of the weights."""
    difference = np.abs(program.astype(np.float64) - weights)
    return {
        "finite": bool(np.isfinite(program).all()),
        # one significant digit: the rest is noise of the order in which a library sums
        "max_difference": float(f"{difference.max():.0e}") if np.isfinite(difference).all() else None,
        "argmax_changes": int((program.argmax(1) != weights.argmax(1)).sum()),
    }


def predictions(test: Any, labels: list[str], challenger: Floats, champion: Floats | None) -> pa.Table:
    """One row per test record: what it is, and what both models say."""
    names = np.array(labels)
    said = pa.array(names[champion.argmax(1)]) if champion is not None else pa.nulls(len(test.y), pa.string())
    columns = {
        "key": pa.array(test.keys),
        "label": pa.array(names[test.y]),
        "challenger": pa.array(names[challenger.argmax(1)]),
        "champion": said,
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(challenger.round(6).ravel()), len(labels)),
    }
    return pa.table(columns).sort_by("key")


def differences(compared: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How many points challenger minus champion is on each part of the test rows; none when nobody was met."""
    found = []
    for part in [*compared["slices"], *compared["perturbations"]] if compared else ():
        if rows := sum(part[count] for count in ("both_right", "b", "c", "both_wrong")):
            points = round(100 * (part["c"] - part["b"]) / rows, 2)
            found.append({"part": part["slice"], "rows": rows, "points": points})
    return found


def drifts(compared: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How far the training rows, and those of each new day, lie from the champion's."""
    if not compared or not compared["drift"]:
        return []
    parts = [("all training rows", compared["drift"]["all"])]
    parts += [(day["part"], day["shifts"]) for day in compared["drift"]["days"]]
    return [
        {"of": f"{part}, {what}", "psi": shift["psi"], "js": shift["js"]}
        for part, shifts in parts
        for what, shift in shifts.items()
    ]


def write(
    folder: Path,
    metrics: dict[str, Any],
    scores: list[dict[str, Any]],
    compared: dict[str, Any] | None,
    table: pa.Table,
) -> None:
    """The stage's outputs; the settings of Parquet are pinned so that the same rows are the same bytes."""
    details = folder / "details"
    details.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    both = {"challenger": scores[0], "champion": scores[1] if compared else None}
    (details / "scores.json").write_text(json.dumps(both, sort_keys=True) + "\n")
    (details / "compared.json").write_text(json.dumps(compared, sort_keys=True) + "\n")
    pq.write_table(table, details / "predictions.parquet", compression="zstd", compression_level=3, version="2.6",
                   row_group_size=50_000, use_dictionary=["label"], store_schema=False)  # fmt: skip
    _csv(folder / "per_class.csv", scores[0]["per_class"])
    _csv(folder / "calibration.csv", scores[0]["calibration"])
    rows = zip(table["label"].to_pylist(), table["challenger"].to_pylist(), strict=True)
    _csv(folder / "confusion.csv", [{"actual": actual, "predicted": predicted} for actual, predicted in rows])
    _csv(folder / "slices.csv", differences(compared), ["part", "rows", "points"])
    _csv(folder / "drift.csv", drifts(compared), ["of", "psi", "js"])


def _figures(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if name in FIGURES}


def _csv(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ParamsError, ReleaseError, OSError, ValueError) as error:
        sys.exit(f"evaluate {' '.join(sys.argv[1:])}: {error}")
