"""Calls that ended, of a real loaded release."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.serving.call import Call
from nightshift.serving.model import LoadedModel, load
from tests.releases.make import SHAPE, make_release


def loaded(folder: Path, **settings: Any) -> LoadedModel:
    digest = make_release(folder, **settings)
    return load(folder, settings.get("model", "toy"), digest)


def ended(model: LoadedModel | None = None, number: int = 0, **settings: Any) -> Call:
    """An inference that was answered a moment ago, with an image of this number throughout; ``settings`` change it."""
    call = Call(f"request-{number}", "rest", "infer", started=time.perf_counter() - 0.004, seconds=0.004)
    if model is not None:
        call.model, call.role, call.status, call.batch, call.items = model, "champion", 200, 1, 1
        call.waited, call.computed = 0.0003, 0.002
        call.inputs = {"image": np.full((1, *SHAPE), number % 256, np.uint8)}
        call.output_names, call.results = ["probabilities"], [np.full((1, 3), 0.25, np.float32)]
    for name, value in settings.items():
        setattr(call, name, value)
    return call
