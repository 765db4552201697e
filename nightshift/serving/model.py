"""One loaded release: its files verified, its program in ONNX Runtime, warm, and right on its golden requests."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from nightshift.releases import golden
from nightshift.releases.manifest import GOLDEN, PROGRAM, Manifest, Tensor, short
from nightshift.releases.registry import check
from nightshift.serving import tensors
from nightshift.serving.tensors import RequestError

_ORT_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class ReleaseRefused(Exception):
    """Why this release must not serve, in one sentence."""


class LoadedModel:
    """A release that answers. Stateless, so any number of threads may ask it at once.

    ``seconds`` is what its last golden request took: whether it may run in the event loop.
    """

    def __init__(self, manifest: Manifest, digest: str, session: onnxruntime.InferenceSession):
        self.manifest = manifest
        self.digest = digest
        self.name = manifest.model
        self.version = short(digest)
        self.seconds = 0.0
        self._session = session
        self._outputs = {tensor.name: tensor for tensor in manifest.signature.outputs}

    def infer(self, request: Any) -> dict[str, Any]:
        """Answer one inference request of the protocol (the parsed JSON). Raises RequestError."""
        if not isinstance(request, dict):
            raise RequestError(400, "the body must be a JSON object with 'inputs'")
        identity = request.get("id")
        if identity is not None and not isinstance(identity, str):
            raise RequestError(400, "'id' must be a string")
        if not isinstance(request.get("parameters", {}), dict):
            raise RequestError(400, "'parameters' must be an object")
        if "inputs" not in request:
            raise RequestError(400, "'inputs' is missing")
        arrays = tensors.read(request["inputs"], self.manifest.signature.inputs)
        names = self._wanted_outputs(request.get("outputs"))
        results = self.run(arrays, names)
        answer: dict[str, Any] = {
            "model_name": self.name,
            "model_version": self.version,
            "outputs": [
                tensors.write(name, self._outputs[name].datatype, result)
                for name, result in zip(names, results, strict=True)
            ],
        }
        if identity is not None:
            answer["id"] = identity
        return answer

    def run(self, arrays: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        """The outputs of these names for checked inputs. Raises RequestError 400 when the program refuses them."""
        try:
            return [np.asarray(result) for result in self._session.run(names, arrays)]
        except Exception as error:
            # ORT's own exceptions share no base; with the signature checked, what is left are inputs whose free
            # dimensions do not fit each other.
            raise RequestError(400, f"the model cannot run on these inputs: {str(error)[:200]}") from error

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata; ``parameters`` says how a person's input becomes the tensor."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "onnxruntime_onnx",
            "inputs": [tensor.model_dump(mode="json") for tensor in self.manifest.signature.inputs],
            "outputs": [tensor.model_dump(mode="json") for tensor in self.manifest.signature.outputs],
            "parameters": self.manifest.input.model_dump(mode="json"),
        }

    def _wanted_outputs(self, outputs: Any) -> list[str]:
        if outputs is None or outputs == []:
            return list(self._outputs)
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise RequestError(400, "'outputs' must be a list of objects with a name")
        names = [output.get("name") for output in outputs]
        if not all(isinstance(output.get("parameters", {}), dict) for output in outputs):
            raise RequestError(400, "the 'parameters' of an output must be an object")
        for name in names:
            if not isinstance(name, str) or name not in self._outputs:
                raise RequestError(400, f"there is no output {name!r}: this model has {', '.join(self._outputs)}")
        if len(set(names)) != len(names):
            raise RequestError(400, "'outputs' names one output twice")
        return names


def load(folder: Path, model: str, digest: str) -> LoadedModel:
    """Verify, load, warm and prove one release.

    Raises ReleaseCorrupt or FormatTooNew (files), ReleaseRefused (program, signature, golden requests).
    """
    manifest = check(folder, model, digest)
    if manifest.file(GOLDEN) is None:
        raise ReleaseRefused(f"it has no {GOLDEN}: nothing could prove its answers")
    requests = golden.load((folder / GOLDEN).read_bytes())
    options = onnxruntime.SessionOptions()
    # One thread per request: on busy cores more threads cost 1.4x the CPU and win nothing.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(folder / PROGRAM), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ORT's exceptions share no base but this
        raise ReleaseRefused(f"{PROGRAM} does not load: {str(error)[:300]}") from error
    _compare("input", manifest.signature.inputs, session.get_inputs())
    _compare("output", manifest.signature.outputs, session.get_outputs())
    loaded = LoadedModel(manifest, digest, session)
    for index, case in enumerate(requests.cases):
        started = time.perf_counter()
        try:
            answer = loaded.infer({"inputs": case.inputs})
        except RequestError as error:
            raise ReleaseRefused(f"golden request {index + 1} is no request for it: {error.message}") from error
        loaded.seconds = time.perf_counter() - started
        wrong = golden.difference(case.outputs, answer["outputs"], requests.tolerance)
        if wrong:
            raise ReleaseRefused(f"golden request {index + 1} disagrees: {wrong}")
    return loaded


def _compare(what: str, expected: tuple[Tensor, ...], found: list[Any]) -> None:
    """Refuse a program whose own tensors are not those of the manifest's signature."""
    by_name = {node.name: node for node in found}
    if set(by_name) != {tensor.name for tensor in expected}:
        raise ReleaseRefused(f"{PROGRAM} has {what}s {sorted(by_name)}, its signature {[t.name for t in expected]}")
    for tensor in expected:
        node = by_name[tensor.name]
        if _ORT_DATATYPES.get(node.type) != tensor.datatype:
            raise ReleaseRefused(f"{what} {tensor.name!r} of {PROGRAM} is {node.type}, its signature {tensor.datatype}")
        fits = len(node.shape) == len(tensor.shape) and all(
            not isinstance(size, int) or size == want for size, want in zip(node.shape, tensor.shape, strict=True)
        )
        if not fits:
            shape = list(tensor.shape)
            raise ReleaseRefused(f"{what} {tensor.name!r} of {PROGRAM} has shape {node.shape}, its signature {shape}")
