"""BF16 in numpy's float32, in JSON, and where ONNX Runtime has none."""

from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto

from nightshift.serving import bf16
from nightshift.serving.model import LoadedModel, ReleaseRefused, load
from nightshift.serving.tensors import RequestError
from tests.serving.types_release import HALVES, make_types_release


def test_numbers_are_rounded_as_the_library_for_it_rounds_them() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    numbers = np.concatenate([numbers[np.isfinite(numbers)], np.float32([0, -0.0, 3.4e38, -3.4e38, 1e-45])])
    with np.errstate(over="ignore"):
        theirs = numbers.astype(bfloat16)
    assert np.array_equal(bf16.narrow(numbers), theirs.view(np.uint16))
    assert np.array_equal(bf16.rounded(numbers), theirs.astype(np.float32))


def halves(folder: Path) -> LoadedModel:
    return load(folder / "halves", "halves", make_types_release(folder / "halves", "halves", HALVES))


def test_json_has_numbers_of_it_and_what_is_beyond_its_range_is_refused(tmp_path: Path) -> None:
    model = halves(tmp_path)

    def asked(data: list[float]) -> list[float]:
        inputs = [{"name": f"in_{name}", "datatype": name, "shape": [1, 2], "data": data} for name in HALVES]
        return list(model.answer(inputs)[0]["data"])

    assert asked([1, 0.1]) == [1.0, float(np.array(0.1).astype(bfloat16))]
    model.give_back()  # which is a run of its own
    with pytest.raises(RequestError, match="'in_BF16' has a value that is not finite as BF16"):
        asked([1, 3.4e38])


def test_a_program_that_onnx_runtime_cannot_be_asked_is_refused_with_the_way_out(tmp_path: Path) -> None:
    digest = make_types_release(tmp_path / "mixed", "mixed", HALVES | {"BYTES": TensorProto.STRING})
    with pytest.raises(ReleaseRefused, match="let the program cast its outputs to FP32"):
        load(tmp_path / "mixed", "mixed", digest)
