"""``python -m pipelines.train MODEL``: trains, then exports the program that will be served.

    datasets/<d>/{train,val}  --Lightning-->  weights.safetensors  --export-->  model.onnx

The same inputs give the same bytes, also after a kill: every epoch leaves a checkpoint, outside DVC and under a name
made from the inputs, and the next attempt with the same inputs goes on from it. Where: ``NIGHTSHIFT_CHECKPOINTS``, a
folder that a night keeps in S3 for whatever worker comes next, else ``.nightshift/checkpoints``.
"""

import csv
import hashlib
import json
import math
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from pipelines.params.section import ParamsError, at, read
from pipelines.params.toolchain import accelerator, demand, threads
from pipelines.params.train import Train
from pipelines.training.export import export
from pipelines.training.fit import Data, fit


def main(model: str) -> None:
    demand("numpy", "onnx", "onnxscript", "pytorch-lightning", "torch")
    params = Train.load("models", model, "train")
    device = accelerator({"cpu": True, "gpu": torch.cuda.is_available()})
    if device == "gpu" and params.devices > torch.cuda.device_count():
        raise ParamsError(
            f"params.yaml: models.{model}.train.devices is {params.devices} and this machine has "
            f"{torch.cuda.device_count()} GPU(s): run the stage where there are as many, or write fewer"
        )
    entry = at(read(), "models", model)
    task, records = (import_module(f"pipelines.tasks.{entry['task']}.{part}") for part in ("module", "records"))
    family = import_module(f"pipelines.families.{entry['family']}")
    torch.set_num_threads(threads())
    if params.devices * params.num_nodes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads())  # else Lightning shares out all cores, and gives other bytes
    pl.seed_everything(params.seed, workers=True, verbose=False)

    prepared = Path("artifacts/datasets", entry["dataset"])
    dataset = json.loads((prepared / "dataset.json").read_text())
    train, val = records.load(prepared / "train"), records.load(prepared / "val")
    data = Data(*map(torch.from_numpy, (train.x, train.y, val.x, val.y)))
    classifier = task.module(family.build, dataset["shape"], dataset["labels"])
    task.fit_normalisation(classifier, train.x)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"train {model}: {len(data.x)} rows, {parameters} parameters, up to {params.epochs} epochs", flush=True)

    kept = os.environ.get("NIGHTSHIFT_CHECKPOINTS")
    home = Path(kept or Path(os.environ.get("NIGHTSHIFT_HOME") or ".nightshift", "checkpoints")).absolute()
    checkpoints = home / f"{model}-{_key_of_inputs(entry, prepared)}"
    rows = fit(
        classifier,
        data,
        params,
        loss=task.loss,
        augment=task.augment,
        accelerator=device,
        checkpoints=checkpoints,
    )
    if rows is None:
        return  # the first process writes
    if kept:
        (home / "finished").touch()  # what is here is kept at once, before the export

    folder = Path("artifacts/models", model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "epochs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    last = {name: value if math.isfinite(value) else None for name, value in rows[-1].items()}  # JSON knows no NaN
    figures = {**last, "rows": len(data.x), "parameters": parameters}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    # channels_last weights are not contiguous, and safetensors stores only what is
    save_file({name: t.contiguous() for name, t in classifier.state_dict().items()}, folder / "weights.safetensors")
    export(task.Served(classifier), data.x[:2], [records.INPUT], [records.OUTPUT], folder / "model.onnx")
    if not kept:
        shutil.rmtree(checkpoints, ignore_errors=True)
    print(f"train {model}: val/accuracy {rows[-1]['val/accuracy']:.4f}, {_size(folder / 'model.onnx')}", flush=True)


def _key_of_inputs(entry: dict[str, Any], prepared: Path) -> str:
    """A name that only an attempt with the same params, code and data shares."""
    params = {name: entry[name] for name in ("dataset", "task", "family", "train")}
    found = hashlib.sha256(json.dumps([params, at(read(), "toolchain")], sort_keys=True).encode())
    code = {module.__file__ for name, module in sys.modules.items() if name.startswith("pipelines.")} | {__file__}
    data = [prepared / split / name for split in ("train", "val") for name in ("x.npy", "y.npy")]
    for path in [*sorted(Path(file) for file in code if file), *data]:
        with path.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


def _size(path: Path) -> str:
    return f"{path.name} has {path.stat().st_size:,} bytes"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ParamsError, OSError, ValueError) as error:
        sys.exit(f"train {' '.join(sys.argv[1:])}: {error}")
