"""``python -m pipelines.evaluate MODEL``: the exported program and its opponent, on the same test rows.

    model.onnx ──┐                             ┌─ metrics.json
                 ├─ datasets/<d>/test ─ score ─┼─ confusion.csv calibration.csv per_class.csv
    champion ────┘                             └─ details/predictions.parquet scores.json

What is judged is what is served: ONNX Runtime answers, and its answers are compared with those of the weights. The
champion is the release that ``champions/<model>.json`` names, fetched by its digest and verified.
"""

import csv
import hashlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseError, ReleaseUnknown
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from pipelines.params.evaluate import Evaluate
from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import demand, threads

BATCH = 500
Floats = np.ndarray[Any, np.dtype[np.float32]]


def main(model: str) -> None:
    demand("numpy", "onnxruntime", "pyarrow", "torch")
    params = Evaluate.load("models", model, "evaluate")
    entry = at(read(), "models", model)
    parts = ("module", "records", "score", "served")
    task, records, score, served = (import_module(f"pipelines.tasks.{entry['task']}.{part}") for part in parts)
    data, made = Path("artifacts/datasets", entry["dataset"]), Path("artifacts/models", model)
    described = json.loads((data / "dataset.json").read_text())
    labels, test = described["labels"], records.load(data / "test")

    challenger = served.answers(made / "model.onnx", test.x)
    weights, parameters = answers_of_weights(task, entry["family"], described, made / "weights.safetensors", test.x)
    opponent = json.loads(Path("champions", f"{model}.json").read_text())["digest"]
    folder = fetch(model, opponent, described) if opponent else None
    champion = served.answers(folder / "model.onnx", test.x) if folder else None

    readable = np.clip(np.nan_to_num(challenger), 0, 1)  # the gate fails what is not finite; its figures stay numbers
    scores = score.score(readable, test.y, labels, params.bins)
    champion_scores = None if champion is None else score.score(champion, test.y, labels, params.bins)
    tables = ("per_class", "confusion", "calibration")
    metrics = {
        "rows": len(test.y),
        "test_sha256": described["splits"]["test"]["sha256"],
        **{name: value for name, value in scores.items() if name not in tables},
        "program": {
            **compare(challenger, weights),
            "max_difference_allowed": params.max_difference,
            "parameters": parameters,
            "bytes": (made / "model.onnx").stat().st_size,
        },
        "opponent": opponent,
        "champion": champion_scores and {k: v for k, v in champion_scores.items() if k not in tables},
        "paired": None if champion is None else score.paired(challenger.argmax(1), champion.argmax(1), test.y),
        "same_program": bool(folder and _sha256(folder / "model.onnx") == _sha256(made / "model.onnx")),
    }
    table = predictions(test, labels, challenger, champion)
    write(Path("artifacts/evaluations", model), metrics, scores, champion_scores, table)
    against = f", champion {champion_scores['accuracy']:.4f}" if champion_scores else ", no champion"
    print(f"evaluate {model}: accuracy {scores['accuracy']:.4f} on {len(test.y)} test rows{against}", flush=True)


def answers_of_weights(
    task: ModuleType, family: str, described: dict[str, Any], file: Path, x: np.ndarray[Any, Any]
) -> tuple[Floats, int]:
    """What the weights themselves answer to ``x``, float32 ``[n, classes]``, and how many parameters they have."""
    torch.set_num_threads(threads())
    build = import_module(f"pipelines.families.{family}").build
    classifier = task.module(build, described["shape"], described["labels"])
    classifier.load_state_dict(load_file(file))
    served = task.Served(classifier).eval()
    with torch.inference_mode():
        parts = [served(torch.from_numpy(x[i : i + BATCH])).numpy() for i in range(0, len(x), BATCH)]
    return np.concatenate(parts), sum(parameter.numel() for parameter in classifier.parameters())


def compare(program: Floats, weights: Floats) -> dict[str, Any]:
    """The exported program's answers against those of the weights."""
    difference = np.abs(program.astype(np.float64) - weights)
    return {
        "finite": bool(np.isfinite(program).all()),
        # one significant digit: the rest is noise of the order in which a library sums
        "max_difference": float(f"{difference.max():.0e}") if np.isfinite(difference).all() else None,
        "argmax_changes": int((program.argmax(1) != weights.argmax(1)).sum()),
    }


def fetch(model: str, digest: str, described: dict[str, Any]) -> Path:
    """The champion's folder, every digest checked.

    Raises:
        ReleaseError: the registry does not answer, has no such release, or what it has is corrupt or of another kind.
    """
    home = Path(os.environ.get("NIGHTSHIFT_HOME") or ".nightshift").absolute()
    url = os.environ.get("NIGHTSHIFT_REGISTRY") or str(home / "registry")
    try:
        folder = Registry(open_store(url)).fetch(model, digest, home / "releases")
    except ReleaseUnknown:
        raise ReleaseUnknown(
            f"champions/{model}.json names the release {digest}, which the registry {url} does not have",
            "point NIGHTSHIFT_REGISTRY at the registry that has it, or copy the release there; "
            f'{{"digest": null}} in champions/{model}.json lets the absolute bounds decide',
        ) from None
    kind = manifests.verify(folder).input
    if list(kind.labels) != described["labels"] or list(kind.shape) != described["shape"]:
        raise ReleaseError(
            f"the champion {digest} of {model} has other labels or another shape of images than today's data set",
            f'they cannot be compared; {{"digest": null}} in champions/{model}.json lets the absolute bounds decide',
        )
    return folder


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


def write(
    folder: Path, metrics: dict[str, Any], scores: dict[str, Any], champion: dict[str, Any] | None, table: pa.Table
) -> None:
    """The stage's outputs; the settings of Parquet are pinned so that the same rows are the same bytes."""
    details = folder / "details"
    details.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    both = {"challenger": scores, "champion": champion}
    (details / "scores.json").write_text(json.dumps(both, sort_keys=True) + "\n")
    pq.write_table(table, details / "predictions.parquet", compression="zstd", compression_level=3, version="2.6",
                   row_group_size=50_000, use_dictionary=["label"], store_schema=False)  # fmt: skip
    _csv(folder / "per_class.csv", scores["per_class"])
    _csv(folder / "calibration.csv", scores["calibration"])
    rows = zip(table["label"].to_pylist(), table["challenger"].to_pylist(), strict=True)
    _csv(folder / "confusion.csv", [{"actual": actual, "predicted": predicted} for actual, predicted in rows])


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
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
