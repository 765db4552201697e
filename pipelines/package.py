"""``python -m pipelines.package MODEL``: the release, whole, whatever the gate said.

    model.onnx weights.safetensors metrics.json decision.json + golden.json profile.json model_card.md
        --manifest--> releases/<m>/

Nothing that differs between two runs with the same inputs is in it: lineage holds what went in, by its hashes: data,
code, parameters, toolchain and opponent, so that two releases can be compared and each followed back to its days.
"""

import hashlib
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseError
from pipelines.params.package import Card
from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import demand
from pipelines.statistics import drift

GOLDEN_CASES = 8
TOLERANCE = 1e-4
TOOLS = ("accelerator", "threads", "numpy", "onnx", "onnxruntime", "onnxscript", "pytorch-lightning", "torch")


def main(model: str) -> None:
    demand("numpy", "onnxruntime")
    if at(read(), "toolchain", "release_format") != manifests.FORMAT:
        raise ParamsError(
            f"params.yaml's toolchain.release_format is {at(read(), 'toolchain', 'release_format')} and the installed "
            f"nightshift writes {manifests.FORMAT}: install the one that fits, or write {manifests.FORMAT} there"
        )
    card = Card.load("models", model, "card")
    entry = at(read(), "models", model)
    records, served = (import_module(f"pipelines.tasks.{entry['task']}.{part}") for part in ("records", "served"))
    data, made = Path("artifacts/datasets", entry["dataset"]), Path("artifacts/models", model)
    dataset = json.loads((data / "dataset.json").read_text())
    measured = Path("artifacts/evaluations", model, "metrics.json")
    metrics = json.loads(measured.read_text())
    decided = Path("artifacts/decisions", model, "decision.json")
    decision = json.loads(decided.read_text())

    folder = Path("artifacts/releases", model)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (made / "model.onnx", made / "weights.safetensors", measured, decided):
        shutil.copyfile(path, folder / path.name)
    validated = json.loads(Path("artifacts/validations", entry["dataset"], "profile.json").read_text())
    # Against this the next challengers' data are held, and what the model is asked once it serves.
    profile = {"format": 1, "distributions": drift.total(validated, list(dataset["rows_per_day"]["train"]))}
    (folder / "profile.json").write_text(json.dumps(profile, sort_keys=True, ensure_ascii=False) + "\n")
    images = records.load(data / "test").x[:GOLDEN_CASES]
    answers = served.program(made / "model.onnx")(images)
    cases = [served.case(image, answer) for image, answer in zip(images, answers, strict=True)]
    golden = {"format": 1, "tolerance": TOLERANCE, "cases": cases}
    (folder / manifests.GOLDEN).write_text(json.dumps(golden, sort_keys=True) + "\n")
    (folder / "model_card.md").write_text(model_card(model, entry, dataset, metrics, decision, card))

    shape, labels = dataset["shape"], dataset["labels"]
    manifest = manifests.build(
        folder,
        model=model,
        task=entry["task"],
        signature=served.signature(shape, labels),
        input=served.kind(shape, labels),
        lineage={
            "train_outputs": {str(made / name): _md5(made / name) for name in ("model.onnx", "weights.safetensors")},
            "dataset": {
                "name": entry["dataset"],
                "md5": _md5(data / "dataset.json"),
                "source": card.data,
                "licence": card.licence,
                **{name: dataset["frozen"][name] for name in ("edition", "split", "share", "trained_until")},
                **{name: dataset[name] for name in ("days", "partitions", "splits")},
            },
            "opponent": decision["opponent"],
            "code": {path: _md5(Path(path)) for path in code(entry["task"], entry["family"])},
            "params": {name: entry[name] for name in ("family", "train", "evaluate", "gate")},
            "toolchain": {name: at(read(), "toolchain", name) for name in TOOLS},
        },
        verdict=decision["verdict"],
    )
    digest = manifests.write(folder, manifest)
    print(f"package {model}: release {manifests.short(digest)}, {manifest.size} bytes, {manifest.verdict}", flush=True)


def code(task: str, family: str) -> list[str]:
    """The files that train a model of this task and family; they are this stage's dependencies too."""
    return [
        "pipelines/train.py",
        *(f"pipelines/training/{name}.py" for name in ("batches", "export", "fit", "lightning")),
        *(f"pipelines/tasks/{task}/{name}.py" for name in ("module", "records")),
        f"pipelines/families/{family}.py",
    ]


def model_card(
    model: str,
    entry: dict[str, Any],
    dataset: dict[str, Any],
    metrics: dict[str, Any],
    decision: dict[str, Any],
    card: Card,
) -> str:
    """What a person should know before using the model, from the run's own figures."""
    rows = {name: split["rows"] for name, split in dataset["splits"].items()}
    days = list(dataset["rows_per_day"]["train"])
    perturbed = "".join(f"; accuracy under {name} {value:.2%}" for name, value in metrics["perturbed"].items())
    return f"""# {model}

- **Task**: {entry["task"].replace("_", " ")}; {len(dataset["labels"])} classes: {", ".join(dataset["labels"])}.
- **Network**: {entry["family"]}, {metrics["program"]["parameters"]:,} parameters.
- **Data**: {entry["dataset"]}, from {card.data}.
- **License of the data**: {card.licence}.
- **Trained on**: {rows["train"]:,} rows of {len(days)} day{"s" if len(days) != 1 else ""} ({days[0]} to {days[-1]});
  {rows["val"]:,} more to watch the training.
- **Accuracy**: {metrics["accuracy"]:.2%} on {metrics["rows"]:,} rows that no decision reads, of the exported program
  (95 % interval {metrics["accuracy_low"]:.2%} to {metrics["accuracy_high"]:.2%}).
- **On the {metrics["test"]["rows"]:,} test rows**: calibration error {metrics["test"]["ece"]:.4f}, log loss
  {metrics["test"]["log_loss"]:.4f}{perturbed}.
- **Cost of an answer**: {metrics["program"]["operations"]:,} multiply-adds, {metrics["program"]["bytes"]:,} bytes.
- **Use**: {card.use}.

## Decision: {decision["verdict"]}

{chr(10).join(f"- {reason}" for reason in decision["reasons"])}

{decision["frozen"]["sentence"]}
"""


def _md5(path: Path) -> str:
    """The name that DVC gives the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ParamsError, ReleaseError, OSError, ValueError) as error:
        sys.exit(f"package {' '.join(sys.argv[1:])}: {error}")
