"""One loaded release: its files verified, its program in ONNX Runtime, warm, and right on its golden requests."""

import errno
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from nightshift.releases import golden
from nightshift.releases.manifest import GOLDEN, PROGRAM, Manifest, Tensor, short
from nightshift.releases.registry import check
from nightshift.serving import bf16, memory, tensors
from nightshift.serving.tensors import RequestError, ask_again

if TYPE_CHECKING:
    from nightshift.serving import grpc_tensors, protocol

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
    "tensor(bfloat16)": "BF16",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


# What ONNX Runtime says where the machine lacks memory or open files; its exceptions have no kind for that.
_STARVED = ("Failed to allocate memory", "std::bad_alloc", "system error number")


class ReleaseRefused(Exception):
    """Why this release must not serve, in one sentence."""


class LoadedModel:
    """A release that answers. Any number of threads may ask it at once.

    ``inputs`` and ``outputs`` are the tensors of its signature by name. ``small`` is its fastest golden request,
    ``seconds`` what that took of a core. ``can_batch`` says whether requests may run together: every tensor's first
    dimension is free, and only that, and golden requests are answered together as each is alone. ``forms`` is what
    ``protocol`` remembers of requests that it was asked, by their first bytes, ``grpc_forms`` what ``grpc_tensors``
    does.
    """

    def __init__(self, manifest: Manifest, digest: str, session: onnxruntime.InferenceSession):
        self.manifest = manifest
        self.digest = digest
        self.name = manifest.model
        self.version = short(digest)
        self.seconds = 0.0
        self.forms: dict[bytes, protocol.Form] = {}
        self.grpc_forms: dict[bytes, grpc_tensors.Form] = {}
        self._session = session
        self.small: dict[str, np.ndarray] = {}
        self.inputs = {tensor.name: tensor for tensor in manifest.signature.inputs}
        self.outputs = {tensor.name: tensor for tensor in manifest.signature.outputs}
        every = (*self.inputs.values(), *self.outputs.values())
        self._bf16_inputs = {name for name, tensor in self.inputs.items() if tensor.datatype == "BF16"}
        self._bf16_outputs = {name for name, tensor in self.outputs.items() if tensor.datatype == "BF16"}
        self._has_bf16 = bool(self._bf16_inputs or self._bf16_outputs)
        self.can_batch = all(tensor.shape[:1] == (-1,) and min(tensor.shape[1:], default=0) >= 0 for tensor in every)

    def run(
        self, arrays: dict[str, np.ndarray], names: Sequence[str], options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]:
        """The outputs of these names, in order.

        Raises RequestError 400 when the program cannot run on the inputs, 503 when there is no memory for it now.
        """
        try:
            if self._has_bf16:
                results = bf16.run(self._session, names, arrays, self._bf16_inputs, self._bf16_outputs, options)
            else:
                results = self._session.run(names, arrays, options)
        except Exception as error:
            if _is_starved(error):
                raise ask_again(f"there is no memory to run {self.name} on these inputs now; ask again") from error
            # ORT's own exceptions share no base; with the signature checked, what is left are inputs whose free
            # dimensions do not fit each other.
            raise RequestError(400, f"the model cannot run on these inputs: {str(error)[:200]}") from error
        return [np.asarray(result) for result in results]

    def give_back(self) -> None:
        """What bigger runs took of the memory: ONNX Runtime keeps it until a run that is told so ends."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.run(self.small, list(self.outputs), options)
        memory.give_back()

    def answer(self, inputs: Any) -> list[dict[str, Any]]:
        """The output tensors, in JSON's words, for input tensors in JSON's words. Raises RequestError."""
        arrays = tensors.read(inputs, self.inputs)
        results = self.run(arrays, list(self.outputs))
        return [
            tensors.write(name, tensor.datatype, result)
            for (name, tensor), result in zip(self.outputs.items(), results, strict=True)
        ]

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

    def config(self) -> dict[str, Any]:
        """What clients that were written for Triton ask for: the tensors in that server's words."""

        def tensor(of: Tensor) -> dict[str, Any]:
            kind = "STRING" if of.datatype == "BYTES" else of.datatype
            return {"name": of.name, "data_type": f"TYPE_{kind}", "dims": list(of.shape)}

        signature = self.manifest.signature
        return {
            "name": self.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "input": [tensor(of) for of in signature.inputs],
            "output": [tensor(of) for of in signature.outputs],
        }


def load(folder: Path, model: str, digest: str) -> LoadedModel:
    """Verify, load, warm and prove one release.

    Raises ReleaseCorrupt or FormatTooNew (files), ReleaseRefused (program, signature, golden requests), and OSError or
    MemoryError when this machine lacks what it takes, which says nothing about the release.
    """
    manifest = check(folder, model, digest)
    if manifest.file(GOLDEN) is None:
        raise ReleaseRefused(f"it has no {GOLDEN}: nothing could prove its answers")
    requests = golden.load((folder / GOLDEN).read_bytes())
    options = onnxruntime.SessionOptions()
    # One thread per request: on busy cores more threads cost 1.4x the CPU and win nothing.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a bad request is no error of ours, and its values are not for the log
    try:
        session = onnxruntime.InferenceSession(
            str(folder / PROGRAM), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ORT's exceptions share no base but this
        if _is_starved(error):
            raise OSError(errno.ENOMEM, f"this machine cannot load {model} {short(digest)} now: {error}") from error
        raise ReleaseRefused(f"{PROGRAM} does not load: {str(error)[:300]}") from error
    _compare("input", manifest.signature.inputs, session.get_inputs())
    _compare("output", manifest.signature.outputs, session.get_outputs())
    datatypes = {tensor.datatype for tensor in manifest.signature.inputs}
    if "BYTES" in datatypes and any(tensor.datatype == "BF16" for tensor in manifest.signature.outputs):
        raise ReleaseRefused("ONNX Runtime gives no BF16 where texts come in: let the program cast its outputs to FP32")
    loaded = LoadedModel(manifest, digest, session)
    for index, case in enumerate(requests.cases):
        started = time.thread_time()  # not the clock's: a busy machine makes no model slow
        try:
            answer = loaded.answer(case.inputs)
        except RequestError as error:
            if error.status == 503:
                said = f"this machine has no memory now for golden request {index + 1} of {model} {short(digest)}"
                raise OSError(errno.ENOMEM, said) from error
            raise ReleaseRefused(f"golden request {index + 1} is no request for it: {error.message}") from error
        seconds = time.thread_time() - started
        if not loaded.seconds or seconds < loaded.seconds:  # the first also warms the session
            loaded.seconds, loaded.small = seconds, tensors.read(case.inputs, loaded.inputs)
        wrong = golden.difference(case.outputs, answer, requests.tolerance)
        if wrong:
            raise ReleaseRefused(f"golden request {index + 1} disagrees: {wrong}")
    loaded.can_batch = loaded.can_batch and _answers_by_row(loaded, requests)
    return loaded


def _is_starved(error: Exception) -> bool:
    """Whether it is the machine that failed, for now, and not the program."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _STARVED)


def _answers_by_row(model: LoadedModel, requests: golden.Golden) -> bool:
    """Whether two golden requests are answered together as each is alone: a program may look across its rows."""
    asked = [tensors.read(case.inputs, model.inputs) for case in (requests.cases[0], requests.cases[-1])]
    names = list(model.outputs)
    try:
        alone = [model.run(arrays, names) for arrays in asked]
        together = model.run({name: np.concatenate([arrays[name] for arrays in asked]) for name in asked[0]}, names)
        pairs = [(np.concatenate(apart), found) for *apart, found in zip(*alone, together, strict=True)]
    except (RequestError, ValueError):
        return False
    return all(
        np.allclose(apart, found, rtol=0, atol=requests.tolerance, equal_nan=True)
        if apart.shape == found.shape and apart.dtype.kind == "f"
        else np.array_equal(apart, found)
        for apart, found in pairs
    )


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
