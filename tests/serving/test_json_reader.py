"""Both parsers read a document alike, whatever its length."""

import gc
import json
import tracemalloc

import numpy as np
import pytest

from nightshift.serving import json_reader
from nightshift.serving.tensors import RequestError

LONG = list(range(1000))  # long enough for the fast parser


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
