"""Both parsers read a document alike, whatever its length."""

import gc
import json
import tracemalloc

import numpy as np
import pytest

from nightshift.serving import json_reader
from nightshift.serving.tensors import RequestError

LONG = list(range(1000))  # long enough for the fast parser
ROWS = [LONG[at : at + 100] for at in range(0, 1000, 100)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"inputs": [{"name": "x", "data": LONG}], "id": "7"}),
        json.dumps({"inputs": [{"name": "x", "data": [each / 7 for each in LONG]}]}),
        json.dumps({"inputs": [{"name": "x", "data": [[1, 2], LONG]}], "parameters": {"a": {"b": [None, True]}}}),
        json.dumps({"inputs": [{"data": [2**63, *LONG]}, 3, None, []]}),
        json.dumps({"a\n\0": 1, "inputs": [{"ü\t": {"\\": 2}, "data": LONG}]}),
        '{"in\\u0070uts": [{"d\\u0061ta": ' + json.dumps(LONG) + "}]}",
        json.dumps([LONG]),
        json.dumps({"inputs": [{"shape": [10, 100], "data": ROWS}, {"data": ROWS, "shape": [10, 100]}], "outputs": []}),
        json.dumps({"inputs": [{"data": [[[each / 7] for each in row] for row in ROWS], "shape": [10, 100, 1]}]}),
        json.dumps({"inputs": [{"shape": [10, 100], "data": [*ROWS[:-2], [*ROWS[-2], 1], ROWS[-1][1:]]}]}),
        json.dumps({"inputs": [{"shape": [2, 500], "data": [[[1], *LONG[1:500]], LONG[500:]]}]}),
        json.dumps({"inputs": [{"shape": [2, 500], "data": [[1, [2]], *[LONG[:499]] * 2]}]}),
        json.dumps({"inputs": [{"shape": [10, 100], "data": [[None, *ROWS[0][1:]], *ROWS[1:]]}, {"data": [[]]}]}),
        json.dumps({"inputs": [{"shape": [10, True], "data": ROWS}, {"shape": "no", "data": ROWS}, {"data": ROWS}]}),
        json.dumps({"inputs": [{"shape": [*[1] * 399, 1000], "data": LONG}, {"data": LONG}]}).replace(
            str(LONG), "[" * 399 + str(LONG) + "]" * 399, 1
        ),
        '{"id": "1", "inputs": [{"data": [1], "data": ' + json.dumps(LONG) + '}], "id": "2"}',
    ],
    ids=[
        "whole",
        "fractions",
        "nested",
        "no tensors",
        "names with escapes",
        "names written otherwise",
        "a list",
        "nested as the shape says",
        "nested fractions",
        "ragged rows",
        "a list where a number should be",
        "a list that flattens to the right length",
        "no numbers in nested lists",
        "shapes that are none",
        "nested very deep",
        "names twice",
    ],
)
def test_a_long_document_reads_as_the_standard_parser_reads_it(text: str) -> None:
    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    assert plain(json_reader.read(text.encode())) == json.loads(text)


def test_a_very_long_document_that_is_no_object_is_refused_before_it_takes_memory() -> None:
    text = b"[" + b"[]," * 1_000_000 + b"[]]"
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="no object"):
            json_reader.read(text)
        assert tracemalloc.get_traced_memory()[1] < len(text)
    finally:
        tracemalloc.stop()


def test_after_a_very_long_document_garbage_is_collected_again() -> None:
    rows = [[1, 2, 3]] * 200_000
    assert json_reader.read(json.dumps({"inputs": [{"data": rows}]}).encode()) == {"inputs": [{"data": rows}]}
    with pytest.raises(RequestError, match="not JSON"):
        json_reader.read(b"[" * 2_000_000)
    assert gc.isenabled()


def test_numbers_that_are_nested_as_their_shape_says_become_no_objects():
    rows = np.random.default_rng(0).standard_normal((1000, 3))
    text = json.dumps({"inputs": [{"data": rows.tolist(), "shape": [1000, 3]}]}).encode()
    (tensor,) = json_reader.read(text)["inputs"]
    assert isinstance(tensor["data"], np.ndarray)
    np.testing.assert_array_equal(tensor["data"], rows)
