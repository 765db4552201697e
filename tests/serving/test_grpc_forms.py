"""What a gRPC client repeats from request to request is understood once, and makes no difference to an answer."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from nightshift.serving import forms, grpc_tensors
from nightshift.serving import inference_pb2 as messages
from nightshift.serving.grpc_tensors import Parser
from nightshift.serving.model import LoadedModel, load
from nightshift.serving.tensors import RequestError
from tests.serving.test_forms import only
from tests.serving.types_release import HALVES, ONNX, make_types_release

PAIR = np.array([[1.5, 2]], np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return only(tmp_path_factory.mktemp("forms"), "FP32")


def message(values: np.ndarray = PAIR, datatype: str = "FP32", **fields: Any) -> bytes:
    tensor = {"name": f"in_{datatype}", "datatype": datatype, "shape": values.shape}
    asked = {"model_name": datatype.lower(), "inputs": [tensor], "raw_input_contents": [values.tobytes()], **fields}
    return messages.ModelInferRequest(**asked).SerializeToString()


def said(parser: Parser, model: LoadedModel, sent: bytes) -> tuple[object, bool]:
    """All that a request comes to, to be compared, and whether it was known."""
    try:
        asked = parser.parse(memoryview(sent))
    except DecodeError:
        return "no message", False
    request = asked.request
    name = request.model_name, request.model_version, request.id
    try:
        form, arrays = grpc_tensors.read(asked, model)
    except RequestError as error:
        return (name, error.status, error.message), bool(asked.before)
    seen = {name: (array.dtype, array.shape, array.tolist()) for name, array in arrays.items()}
    try:
        answer: object = grpc_tensors.write(asked, form, model, model.run(arrays, list(form.wanted)))
    except RequestError as error:
        answer = error.message
    return (name, seen, form.wanted, form.timeout, answer), bool(asked.before)


def first_said(model: LoadedModel, sent: bytes) -> object:
    """The same by who has seen nothing before, and without a trace."""
    known, model.grpc_forms = model.grpc_forms, {}
    try:
        return said(Parser(), model, sent)[0]
    finally:
        model.grpc_forms = known


def test_a_request_with_other_numbers_is_known_and_answered_with_its_own(model: LoadedModel) -> None:
    parser = Parser()
    assert not said(parser, model, message())[1]
    for values in ([[3, 4]], [[0, -0.5]], [[1e30, 1e-30]]):
        sent = message(np.array(values, np.float32))
        found, known = said(parser, model, sent)
        assert known
        assert found == first_said(model, sent)
        answer = messages.ModelInferResponse.FromString(found[-1])
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == np.float32(values).ravel().tolist()
        assert (answer.model_name, answer.model_version) == (model.name, model.version)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_of_a_known_request_are_looked_at(model: LoadedModel, value: float) -> None:
    parser = Parser()
    said(parser, model, message())
    found, known = said(parser, model, message(np.array([[1, value]], np.float32)))
    assert known
    assert found[1:] == (400, "input 'in_FP32' has a value that is not finite as FP32")


PARAMETERS = {"timeout": messages.InferParameter(int64_param=5)}
CLASSES = {"name": "out_FP32", "parameters": {"classification": messages.InferParameter(int64_param=1)}}
FIELDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an output": {"outputs": [{"name": "out_FP32"}]},
    "its classes": {"outputs": [CLASSES]},
    "a timeout": {"parameters": PARAMETERS},
    "another version": {"model_version": "abc"},
    "an id": {"id": "7"},
    "an output that is not there": {"outputs": [{"name": "nothing"}]},
    "a shape that does not fit": {"inputs": [{"name": "in_FP32", "datatype": "FP32", "shape": [2, 1]}]},
    "another datatype": {"inputs": [{"name": "in_FP32", "datatype": "INT32", "shape": [1, 2]}]},
    "two items": {
        "inputs": [{"name": "in_FP32", "datatype": "FP32", "shape": [2, 2]}],
        "raw_input_contents": [np.float32([[1, 2], [3, 4]]).tobytes()],
    },
}


@pytest.mark.parametrize("beside", FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("before", FIELDS.values(), ids=FIELDS.keys())
def test_what_was_seen_before_changes_no_answer(model: LoadedModel, before: dict, beside: dict) -> None:
    parser = Parser()
    for fields in (before, beside, before, beside):
        sent = message(**fields)
        assert said(parser, model, sent)[0] == first_said(model, sent)


def test_a_message_that_ends_with_what_looks_like_its_numbers_is_not_kept(model: LoadedModel) -> None:
    """The numbers stand first, and a copy of them at the end, in a field that the protocol does not have."""
    copy = b"\x3a\x08" + PAIR.tobytes()
    tricky = message() + b"\xfa\x07" + bytes([len(copy)]) + copy
    parser = Parser()
    other = tricky[:-8] + np.float32([[7, 8]]).tobytes()
    for sent in (tricky, other, tricky):
        found, known = said(parser, model, sent)
        assert not known
        assert found == first_said(model, sent)
    assert said(parser, model, other)[0] == first_said(model, tricky)


def test_whatever_is_changed_in_a_message_it_means_what_it_would_have_meant_first(model: LoadedModel) -> None:
    rng = random.Random(5)
    parser = Parser()
    sources = [message(**fields) for fields in FIELDS.values()]
    right = known = 0
    for number in range(6_000):
        sent = bytearray(rng.choice(sources))
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.randrange(len(sent))
            if rng.random() < 0.7:
                sent[at] ^= 1 << rng.randrange(8)
            else:
                sent[at : at + rng.choice((0, 1, 8))] = rng.randbytes(rng.choice((0, 1, 8)))
        found, was_known = said(parser, model, bytes(sent))
        assert found == first_said(model, bytes(sent)), (number, bytes(sent))
        known += was_known
        right += found != "no message" and len(found) > 3
    assert known > 1_000
    assert right > 1_000


def test_a_model_with_another_signature_reads_a_known_request_by_its_own(tmp_path: Path, model: LoadedModel) -> None:
    parser = Parser()
    said(parser, model, message())
    other = only(tmp_path, "INT32")
    found, known = said(parser, other, message())
    assert known
    assert found[1:] == (400, "there is no input 'in_FP32': this model has in_INT32")


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "BF16", "FP64", "BYTES"])
def test_every_datatype(tmp_path: Path, datatype: str) -> None:
    folder, parser = tmp_path / "release", Parser()
    digest = make_types_release(folder, datatype.lower(), {datatype: {**ONNX, **HALVES}[datatype]})
    model = load(folder, datatype.lower(), digest)
    rows = {"BYTES": [[b"\1\0\0\0a", b"\2\0\0\0bc"], [b"\2\0\0\0de", b"\1\0\0\0f"]]}
    raw = {"BOOL": np.bool_, "BF16": np.uint16, "FP16": np.float16, "FP64": np.float64}
    for row in rows.get(datatype, [[0, 1], [1, 0], [1, 1]]):
        if datatype == "BYTES":
            sent = message(PAIR, datatype, raw_input_contents=[b"".join(row)])
        else:
            sent = message(np.array([row], raw.get(datatype, datatype.lower())), datatype)
        for _ in range(2):
            assert said(parser, model, sent)[0] == first_said(model, sent)
    assert said(parser, model, sent)[1]


def test_only_so_many_are_remembered(model: LoadedModel) -> None:
    parser = Parser()
    for number in range(3 * forms.FORMS):
        said(parser, model, message(model_version=f"v{number}"))
        said(parser, model, message(model_version=f"v{number}"))
        assert len(parser._requests) <= forms.FORMS
        assert len(model.grpc_forms) <= forms.FORMS
    for _ in range(2):
        assert not said(parser, model, message(id="a number of its own"))[1]
    big = np.zeros((1 << 18, 2), np.float32)
    assert not said(parser, model, message(big))[1]
    assert not said(parser, model, message(big))[1]
    model.grpc_forms.clear()
