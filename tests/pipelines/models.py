"""A checkout with prepared rows that a model learns in a second: images of one color, labeled by it."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from pipelines.families import cnn
from pipelines.tasks.image_classification import module
from pipelines.training.export import export
from tests.pipelines.small import ROOT

LABELS = ["red", "green", "blue"]
SHAPE = [12, 12, 3]
MODEL = "cifar10-cnn"


def rows(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Writes a split as prepare does; gives its entry in dataset.json."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(LABELS), count)
    x = rng.integers(0, 120, (count, *SHAPE), np.uint8)
    x[np.arange(count), :, :, y] += 60
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "keys.txt").write_text("".join(f"{seed:032x}{i:032x}\n" for i in range(count)))
    return {"rows": count, "sha256": f"{seed:064x}"}


def checkout(root: Path, *, labels: Sequence[str] = LABELS, **train: Any) -> Path:
    """A folder with the code, the parameters (``train`` replaces some of the training's) and prepared rows."""
    root.mkdir(parents=True)
    shutil.copytree(ROOT / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"][MODEL]["train"].update({"epochs": 8, "batch_size": 16} | train)
    params["models"][MODEL]["evaluate"]["slices"]["groups"] = {}  # they name CIFAR-10's labels
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    data = root / "artifacts" / "datasets" / "cifar10"
    splits = {
        "train": rows(data / "train", 100, 1),
        "val": rows(data / "val", 30, 2),
        "test": rows(data / "test", 60, 3),
        "confirm": rows(data / "confirm", 50, 4),
        "publish": rows(data / "publish", 40, 5),
    }
    days = ["2026-01-01", "2026-01-02"]
    frozen = {"split": "official", "share": None, "edition": "start", "waiting": 0, "retired": 0, "least": 1000}
    frozen |= {"newest": days[1], "trained_until": days[1]}
    described = {"labels": list(labels), "shape": SHAPE, "days": days, "frozen": frozen, "splits": splits}
    described["partitions"] = {day: hashlib.md5(day.encode()).hexdigest() for day in days}
    described["rows_per_day"] = {name: {days[0]: split["rows"] - 10, days[1]: 10} for name, split in splits.items()}
    (data / "dataset.json").write_text(json.dumps(described))
    profile(root, {day: [20, 20, 20] for day in days}, labels)
    champion(root, None)
    return root


def profile(root: Path, counts: dict[str, list[int]], labels: Sequence[str] = LABELS) -> None:
    """What validation leaves: the training rows of each day by their labels."""
    folder = root / "artifacts" / "validations" / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    found = {"accepted": {}, "distributions": {"label": {"bins": list(labels), "days": counts}}}
    (folder / "profile.json").write_text(json.dumps(found))


def champion(root: Path, digest: str | None) -> None:
    (root / "champions").mkdir(exist_ok=True)
    (root / "champions" / f"{MODEL}.json").write_text(json.dumps({"digest": digest, "looks": 0}))


def make_model(folder: Path, seed: int) -> None:
    """What train leaves in ``folder``, of a model that was never trained; another seed is another model."""
    torch.manual_seed(seed)
    classifier = module.module(cnn.build, SHAPE, LABELS)
    classifier.mean.fill_(100.0)
    classifier.std.fill_(40.0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in classifier.state_dict().items()}, folder / "weights.safetensors")
    example = torch.zeros((2, *SHAPE), dtype=torch.uint8)
    export(module.Served(classifier), example, ["image"], ["probabilities"], folder / "model.onnx")
