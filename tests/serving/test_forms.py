"""What a client repeats from request to request is understood once, and makes no difference to what is answered."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightshift.serving import json_reader, protocol
from nightshift.serving.model import LoadedModel, load
from nightshift.serving.tensors import RequestError, is_finite
from tests.serving.types_release import HALVES, ONNX, make_types_release

TENSOR = {"name": "in_FP32", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2]}
NESTED = {**TENSOR, "data": [[1.5, 2]]}
VALUES = [
    *("[1.5, 2]", "[3,4]", "[ -1e3 , 0.25 ]", "[1]", "[1,2,3]", "[]", "[[1, 2]]", "[[1],[2]]", "[1,[2]]", "[1,[],2]"),
    *("[1, 2", "1, 2]", "[1, 2]]", "[1, 2],[3]", "[NaN, 1]", "[1, 1e999]", "[1, 1e39]", "[1, null]", "[true, 1]"),
    *('["1", 2]', "null", '"data"', "[1 2]", "[1,,2]", "[01, 2]", "[1, 2]}", "[1, 18446744073709551616]", "", "\xff"),
    *("[1.5, 2], \"shape\": [2, 1]", "[1.5, 2], \"data\": [3, 4]", "[1.5, 2], \"name\": \"other\""),
]  # fmt: skip


def body(**members: Any) -> str:
    return json.dumps({"inputs": [TENSOR], **members})


BODIES = {
    "as clients write it": body(),
    "without spaces": json.dumps(json.loads(body()), separators=(",", ":")),
    "on lines": json.dumps(json.loads(body()), indent=2),
    "the data first": json.dumps({"inputs": [dict(reversed(TENSOR.items()))]}),
    "members behind": body(outputs=[{"name": "out_FP32"}], parameters={"timeout": 1_000_000}),
    "an id": body(id="7"),
    "an id first": json.dumps({"id": "7", "inputs": [TENSOR]}),
    "an id first and last": json.dumps({"id": "7", "inputs": [TENSOR]})[:-1] + ', "id": "7"}',
    "nested": json.dumps({"inputs": [NESTED]}),
    "nested, with its shape behind and an id": json.dumps({"id": "7", "inputs": [dict(reversed(NESTED.items()))]}),
    "another list before": json.dumps({"parameters": {"data": [1.5, 2]}, "inputs": [TENSOR]}),
    "a text before that looks like it": json.dumps({"parameters": {"note": '"data": [1.5, 2]'}, "inputs": [TENSOR]}),
    "a list of texts before": json.dumps({"parameters": {"data": ["]", "a"]}, "inputs": [TENSOR]}),
    "inputs twice": json.dumps({"inputs": [TENSOR]})[:-1] + ', "inputs": [' + json.dumps(TENSOR) + "]}",
    "data twice": body().replace('"data"', '"data": null, "data"'),
    "a text behind with a bracket": body(parameters={"note": "]}]}"}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return only(tmp_path_factory.mktemp("forms"), "FP32")


@pytest.fixture(autouse=True)
def nothing_known(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "model" in request.fixturenames:
        request.getfixturevalue("model").forms.clear()


def only(folder: Path, *datatypes: str) -> LoadedModel:
    name = "-".join(datatypes).lower()
    kinds = {datatype: (ONNX | HALVES)[datatype] for datatype in datatypes}
    return load(folder / name, name, make_types_release(folder / name, name, kinds))


def said(model: LoadedModel, body: bytes, json_length: int | None = None) -> object:
    """All that a request comes to, to be compared."""
    try:
        asked = protocol.read(body, json_length, model)
    except RequestError as error:
        return error.status, error.message
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in asked.arrays.items()}
    return asked.id, arrays, asked.form.outputs, asked.form.names, asked.form.timeout


def first_said(model: LoadedModel, body: bytes, json_length: int | None = None) -> object:
    """The same by who has seen nothing before, and without a trace."""
    known, model.forms = model.forms, {}
    try:
        return said(model, body, json_length)
    finally:
        model.forms = known


@pytest.mark.parametrize("known", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("values", VALUES)
def test_what_was_seen_before_changes_no_answer(model: LoadedModel, known: str, values: str):
    for place in re.finditer(r"\[\s*1\.5,\s*2\s*\]", known):
        protocol.read(known.encode(), None, model)
        new = (known[: place.start()] + values + known[place.end() :]).encode("latin-1")
        assert said(model, new) == first_said(model, new)


@pytest.mark.parametrize("start", ["", '"id": "7", '], ids=["no id", "an id"])
@pytest.mark.parametrize("shape", [(8, 2), (2, 4, 2)], ids=["two dimensions", "three dimensions"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("part", [None, 1, 9], ids=["whole", "in many parts", "in parts"])
def test_whatever_is_changed_in_a_body_it_means_what_it_would_have_meant_first(
    tmp_path: Path,
    shape: tuple[int, ...],
    nested: bool,
    start: str,
    part: int | None,
    monkeypatch: pytest.MonkeyPatch,
):
    if part is not None:
        monkeypatch.setattr(json_reader, "_PART", part)
        monkeypatch.setattr(json_reader, "_KEPT", 40)  # which these bodies are longer than
    rng = random.Random(0)
    model = only(tmp_path, "FP32")
    free = {"shape": (-1, *shape[1:])}
    model.inputs = {name: tensor.model_copy(update=free) for name, tensor in model.inputs.items()}
    values = np.array([round(rng.gauss(0, 1), 3) for _ in range(16)])
    data = values.reshape(shape) if nested else values
    tensor = {**TENSOR, "shape": shape, "data": data.tolist()}
    known = json.dumps({"inputs": [tensor], "parameters": {"timeout": 5}}).replace("{", "{" + start, 1).encode()
    right, tries = 0, 4_000 if part is None else 1_000
    for _ in range(tries):
        protocol.read(known, None, model)
        changed = bytearray(known)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(changed))
            match rng.randrange(3):
                case 0:
                    changed[at : at + 1] = rng.choice(
                        (b"[", b"]", b",", b" ", b"1", b"e", b'"', b"-", b"}", b"{", b"9")
                    )
                case 1:
                    del changed[at : at + rng.choice((1, 3, 20))]
                case 2:
                    changed[at:at] = changed[rng.randrange(at + 1) : at] if rng.random() < 0.2 else b"7"
        found = said(model, bytes(changed))
        right += len(found) > 2 if isinstance(found, tuple) else 0
        assert found == first_said(model, bytes(changed)), bytes(changed)
    assert 0.1 * tries < right < 0.9 * tries, "these bodies are all wrong, or all right"


@pytest.mark.parametrize(
    "known",
    [
        *("as clients write it", "without spaces", "the data first", "members behind", "an id first", "nested"),
        "nested, with its shape behind and an id",
    ],
)
def test_of_a_form_that_was_seen_only_the_numbers_are_read(
    model: LoadedModel, known: str, monkeypatch: pytest.MonkeyPatch
):
    protocol.read(BODIES[known].encode(), None, model)
    monkeypatch.setattr(json_reader, "read", None)
    for numbers, expected in (("[7, 0.5]", [7, 0.5]), ("[8,9]", [8, 9]), ("[1.5,2.5]", [1.5, 2.5])):
        new = BODIES[known].replace("[1.5, 2]", numbers).replace("[1.5,2]", numbers)
        (array,) = protocol.read(new.encode(), None, model).arrays.values()
        np.testing.assert_array_equal(array, np.float32([expected]))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + body(parameters={"note": "x" * 2000}),
        body(parameters={"note": "x" * 2000})[:-1] + ', "inputs": []}',
        body(parameters={"note": "x" * 2000})[:-1] + ', "inputs": [{"data": null}]}',
        body(parameters={"note": "x" * 2000}).replace("2]}", '2], "data": null}'),
    ],
    ids=["a byte order mark", "no inputs after all", "no values after all", "no data after all"],
)
def test_what_only_the_parser_of_long_documents_reads_so_is_no_form(model: LoadedModel, text: str):
    for _ in range(2):
        found = said(model, text.encode())
        assert found == first_said(model, text.encode())
    assert not model.forms
    assert len(found) == 5 if text.startswith("\ufeff") else found[0] == 400


def test_a_head_of_raw_tensors_that_was_seen_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = only(tmp_path, "FP32", "INT64")
    sizes = {"FP32": 8, "INT64": 16}
    inputs = [
        {"name": f"in_{name}", "datatype": name, "shape": [1, 2], "parameters": {"binary_data_size": size}}
        for name, size in sizes.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()

    def sent(first: list[float], second: list[int]) -> bytes:
        return head + np.float32(first).tobytes() + np.int64(second).tobytes()

    protocol.read(sent([1, 2], [3, 4]), len(head), model)
    wrong = [sent([1, 2], [3]), sent([1, 2], [3, 4, 5]), sent([1, float("nan")], [3, 4]), head]
    for each in wrong:
        assert said(model, each, len(head)) == first_said(model, each, len(head))
    assert (
        said(model, head)
        == first_said(model, head)
        == (400, "input 'in_FP32' needs 8 bytes after the JSON, and 0 are left")
    )
    monkeypatch.setattr(json_reader, "read", None)
    head = b'{"id": "7", ' + head[1:]
    asked = protocol.read(sent([5, 6], [7, 8]), len(head), model)
    assert asked.id == "7"
    assert {name: array.tolist() for name, array in asked.arrays.items()} == {"in_FP32": [[5, 6]], "in_INT64": [[7, 8]]}
    assert [wanted.binary for wanted in asked.form.outputs] == [True, True]


def test_a_form_of_json_is_none_of_raw_tensors(model: LoadedModel):
    known = BODIES["without spaces"].encode()
    protocol.read(known, None, model)
    length = known.index(b"[1.5")
    assert said(model, known, length) == first_said(model, known, length)


def test_what_is_kept_is_bounded_and_an_id_is_no_part_of_it(model: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    for known in ("an id", "an id first and last"):
        protocol.read(BODIES[known].encode(), None, model)
        assert not model.forms
    for identity in ("7", "5a1b-c.d:E_1", "x" * 101, "", 'a\\"b', "ü"):
        asked = protocol.read(json.dumps({"id": identity, "inputs": [TENSOR]}).encode(), None, model)
        assert asked.id == identity
        assert len(model.forms) == 1
    with monkeypatch.context() as patched:
        patched.setattr(json_reader, "read", None)
        assert protocol.read(body().encode(), None, model).id is None
        assert protocol.read(json.dumps({"id": "8", "inputs": [TENSOR]}).encode(), None, model).id == "8"
    for number in range(1000):
        protocol.read(json.dumps({"parameters": {"n": number}, "inputs": [TENSOR]}).encode(), None, model)
    assert 100 < len(model.forms) <= 256
    model.forms.clear()
    protocol.read(json.dumps({"parameters": {"n": "x" * 10_000}, "inputs": [TENSOR]}).encode(), None, model)
    protocol.read(json.dumps({"inputs": [TENSOR], "parameters": {"n": "x" * 10_000}}).encode(), None, model)
    assert not model.forms


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_long_list_is_read_in_parts_between_which_others_have_their_turn(
    model: LoadedModel, nested: bool, monkeypatch: pytest.MonkeyPatch
):
    values = np.random.default_rng(0).standard_normal((60_000, 2)).round(9)
    data = values.tolist() if nested else values.ravel().tolist()
    text = json.dumps({"inputs": [{**TENSOR, "shape": values.shape, "data": data}]}).encode()
    assert len(text) > 1 << 20
    protocol.read(text, None, model)
    lengths: list[int] = []
    read_one = json_reader._list_of_numbers

    def noted(part: bytes, *more: Any) -> Any:
        lengths.append(len(part))
        return read_one(part, *more)

    monkeypatch.setattr(json_reader, "_list_of_numbers", noted)
    monkeypatch.setattr(json_reader, "read", None)
    (array,) = protocol.read(text, None, model).arrays.values()
    np.testing.assert_array_equal(array, values.astype(np.float32))
    assert len(lengths) > 4
    assert max(lengths) < 300_000


def test_what_waits_after_a_very_long_body_holds_its_arrays_and_not_its_lists(model: LoadedModel):
    text = body().encode()
    short, long = protocol.read(text, None, model), protocol.read(text + b" " * (1 << 20), None, model)
    assert (len(short.form.inputs), len(long.form.inputs)) == (1, 0)
    assert long.form.names == short.form.names
    assert [array.tolist() for array in long.arrays.values()] == [array.tolist() for array in short.arrays.values()]


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "INT64", "BYTES"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "JSON"])
def test_what_was_answered_before_changes_no_answer(tmp_path: Path, datatype: str, raw: bool):
    model = only(tmp_path, datatype)
    rng = random.Random(0)

    def answer(body: bytes) -> tuple[bytes, int | None]:
        asked = protocol.read(body, None, model)
        return protocol.write(asked, model, model.run(asked.arrays, asked.form.names))

    for number in range(200):
        items = rng.choice((1, 1, 2, 3))
        values = [rng.randrange(100) for _ in range(2 * items)]
        tensor = {"name": f"in_{datatype}", "datatype": datatype, "shape": [items, 2]}
        output = {"name": f"out_{datatype}", "parameters": {"binary_data": raw}}
        if datatype != "BYTES" and rng.random() < 0.2:
            output["parameters"]["classification"] = rng.choice((1, 2))
        request = {"id": str(number)} if rng.random() < 0.3 else {}
        data = [str(value) for value in values] if datatype == "BYTES" else values
        request |= {"inputs": [{**tensor, "data": data}], "outputs": [output]}
        found = answer(json.dumps(request).encode())
        known, model.forms = model.forms, {}
        assert found == answer(json.dumps(request).encode())
        model.forms = known
    answers = [form.answers for form in model.forms.values() if form.answers]
    assert bool(answers) == (raw and datatype in ("FP32", "INT64"))
    assert all(len(each) <= 16 for each in answers)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3072, 8192, 8193])
def test_one_value_that_is_not_finite_is_seen_among_any(dtype: type, size: int):
    rng = np.random.default_rng(0)
    limits = np.finfo(dtype)
    for like in (rng.standard_normal(size), np.full(size, limits.max), np.full(size, -limits.tiny), np.zeros(size)):
        array = like.astype(dtype)
        assert is_finite(array)
        assert is_finite(array.reshape(1, size, 1)[::-1])
        for wrong in (np.nan, np.inf, -np.inf):
            for at in {0, size // 2, size - 1}:
                spoilt = array.copy()
                spoilt[at] = wrong
                assert not is_finite(spoilt)
