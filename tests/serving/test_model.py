"""Loading a release: what is refused, and why, before anything serves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightshift.releases import manifest as manifests
from nightshift.releases.errors import ReleaseCorrupt
from nightshift.serving.engine import Engine, drop
from nightshift.serving.model import ReleaseRefused, load
from nightshift.serving.tensors import RequestError
from tests.releases import kinds
from tests.releases.make import make_release


def remake(folder: Path, **changes: Any) -> str:
    """A manifest that is true of the folder's changed files, with these parts instead of its own."""
    old = manifests.load((folder / manifests.NAME).read_bytes())
    parts = {"model": old.model, "signature": old.signature.model_dump(mode="json"), "input": old.input, **changes}
    manifest = manifests.build(folder, task=old.task, lineage={}, verdict="pass", **parts)
    return manifests.write(folder, manifest)


def signature(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4, 3], **changes}
    return {"inputs": [tensor], "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]}


def test_a_good_release_loads_warm(tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    loaded = load(tmp_path / "r", "toy", digest)
    assert (loaded.name, loaded.version) == ("toy", digest[:12])
    assert 0 < loaded.seconds < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [-1, 4, 4, 1]}, r"input 'image' of model.onnx has shape"),
        ({"shape": [-1, 48]}, r"input 'image' of model.onnx has shape"),
        ({"datatype": "FP32"}, r"input 'image' of model.onnx is tensor\(uint8\), its signature FP32"),
        ({"name": "picture"}, r"inputs \['image'\], its signature \['picture'\]"),
    ],
)
def test_a_program_that_is_not_its_signature_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    make_release(tmp_path / "r")
    digest = remake(tmp_path / "r", signature=signature(**changes))
    with pytest.raises(ReleaseRefused, match=words):
        load(tmp_path / "r", "toy", digest)


def test_a_program_that_does_not_load_is_refused(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    (tmp_path / "r" / "model.onnx").write_bytes(b"this is no program")
    with pytest.raises(ReleaseRefused, match=r"model\.onnx does not load"):
        load(tmp_path / "r", "toy", remake(tmp_path / "r"))


def test_a_release_without_golden_requests_is_refused(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    (tmp_path / "r" / "golden.json").unlink()
    with pytest.raises(ReleaseRefused, match=r"no golden\.json"):
        load(tmp_path / "r", "toy", remake(tmp_path / "r"))


def test_golden_requests_that_are_no_requests_for_it_are_refused(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    golden = json.loads((tmp_path / "r" / "golden.json").read_text())
    golden["cases"][1]["inputs"][0]["shape"] = [1, 48]
    (tmp_path / "r" / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ReleaseRefused, match="golden request 2 is no request for it: input 'image'"):
        load(tmp_path / "r", "toy", remake(tmp_path / "r"))


def test_a_release_of_another_model_is_not_loaded_under_this_name(tmp_path: Path) -> None:
    digest = make_release(tmp_path / "r")
    with pytest.raises(ReleaseCorrupt, match="a release of toy, not of other"):
        load(tmp_path / "r", "other", digest)


def test_a_request_that_the_program_cannot_run_leaves_no_line_beside_the_log(tmp_path: Path, capfd: Any) -> None:
    one = load(tmp_path / "price", "price", kinds.row_release(tmp_path / "price"))
    arrays = {
        "rooms": np.array([[1], [1]]),
        "area": np.array([[1.0]], np.float32),
        "color": np.array([["red"]], object),
    }
    with pytest.raises(RequestError, match="cannot run on these inputs"):
        one.run(arrays, list(one.outputs))
    assert capfd.readouterr() == ("", "")


def test_what_there_is_no_memory_for_is_no_fault_of_the_request_nor_of_the_release(tmp_path: Path) -> None:
    folder = tmp_path / "vast"
    one = load(folder, "vast", kinds.vast_release(folder))
    with pytest.raises(RequestError, match="no memory to run vast") as refused:
        one.run({"count": np.array([10**15])}, ["zeros"])
    assert refused.value.status == 503
    golden = json.loads((folder / "golden.json").read_text())
    golden["cases"][0]["inputs"][0]["data"] = [10**15]
    (folder / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(OSError, match="no memory now for golden request 1 of vast"):
        load(folder, "vast", remake(folder))


def test_a_swap_lets_requests_end_on_the_old_model_and_then_frees_it(tmp_path: Path) -> None:
    engine = Engine()
    for seed in (0, 1):
        digest = make_release(tmp_path / str(seed), seed=seed)
        loaded = load(tmp_path / str(seed), "toy", digest)
        if seed == 0:
            assert engine.swap(loaded) == []
            under_way, _ = engine.find("toy", None)
        else:
            old = engine.swap(loaded)
        del loaded
    assert engine.serving("toy") == digest
    assert len(old) == 1
    assert not drop(old, 0.05), "a request still holds it"
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": np.zeros(48, int).tolist()}
    assert under_way.answer([image])
    assert under_way.version != digest[:12]
    del under_way
    assert drop(old, 1)
    with pytest.raises(RequestError, match="no version"):
        engine.find("toy", "0" * 12)
