"""The model that all serve, its requests, and its release in a folder registry with an API key."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from nightshift.releases import manifest as manifests
from nightshift.releases.ledger import Ledger, Outcome
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
from nightshift.serving import inference_pb2
from pipelines.families import cnn
from pipelines.training.export import export

SHAPE = (1, 3, 32, 32)
SIGNATURE = {
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, *SHAPE[1:]]}],
    "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}],
}


def make(folder: Path) -> None:
    """``model.onnx`` and ``model.pt2``, the textbook network for CIFAR-10; weights do not matter for speed."""
    torch.manual_seed(0)
    model = cnn.build((32, 32, 3), 10).eval()
    example = torch.zeros(2, *SHAPE[1:])
    export(model, example, ["input"], ["output"], folder / "model.onnx")
    free = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=free), folder / "model.pt2")


def requests(folder: Path) -> None:
    """One image of 3,072 random numbers in every form in which a server is asked: a file each, one of headers too."""
    image = np.random.default_rng(0).standard_normal(SHAPE)
    values = image.astype(np.float32).tobytes()
    tensor = {"name": "input", "datatype": "FP32", "shape": list(SHAPE)}
    _write(folder, "json", json.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]}).encode())
    _write(folder, "plain", json.dumps({"data": image.tolist()}).encode())
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": len(values)}}]}
    head_bytes = json.dumps({**head, "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head_bytes)), "Content-Type": "application/octet-stream"}
    _write(folder, "binary", head_bytes + values, length)
    request = inference_pb2.ModelInferRequest(model_name="cnn", raw_input_contents=[values])
    request.inputs.add(name="input", datatype="FP32", shape=SHAPE)
    _write(folder, "grpc", request.SerializeToString(), {})


def release(folder: Path) -> str:
    """Publishes ``model.onnx`` to ``folder/registry``, orders it, and makes a key; gives the key."""
    made = folder / "release"
    made.mkdir()
    (made / manifests.PROGRAM).write_bytes((folder / "model.onnx").read_bytes())
    session = onnxruntime.InferenceSession(made / manifests.PROGRAM)
    cases = []
    for seed in range(4):
        image = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
        (scores,) = session.run(None, {"input": image})
        given = [{"name": "input", "datatype": "FP32", "shape": list(SHAPE), "data": image.ravel().tolist()}]
        answer = [{"name": "output", "datatype": "FP32", "shape": [1, 10], "data": scores.ravel().tolist()}]
        cases.append({"inputs": given, "outputs": answer})
    (made / manifests.GOLDEN).write_text(json.dumps({"format": 1, "tolerance": 1e-4, "cases": cases}))
    manifest = manifests.build(
        made,
        model="cnn",
        task="image_classification",
        signature=SIGNATURE,
        input={"kind": "tensor"},
        lineage={"opponent": None},
        verdict="pass",
    )
    manifests.write(made, manifest)
    store = open_store(str(folder / "registry"))
    digest = Registry(store).publish(made)
    order = Ledger(store).order(
        "cnn",
        digest=digest,
        model_digest=manifest.model_digest,
        deadline=timedelta(minutes=1),
        who="benchmark",
        what="promote",
        reason="to be measured",
        evidence={},
    )
    Ledger(store).settle(order, Outcome(state="proven", reason="to be measured", at=datetime.now(UTC)))
    command = [sys.executable, "-m", "nightshift.cli.main", "keys", "create", "benchmark", "--json"]
    shown = subprocess.run(
        command, env={"NIGHTSHIFT_REGISTRY": store.url}, check=True, capture_output=True, text=True
    ).stdout
    return str(json.loads(shown)["key"])


def _write(folder: Path, name: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    (folder / f"{name}.body").write_bytes(body)
    headers = {"Content-Type": "application/json"} if headers is None else headers
    (folder / f"{name}.headers").write_text(json.dumps(headers))
