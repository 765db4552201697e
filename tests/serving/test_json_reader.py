"""Both parsers read a document alike, whatever its length."""

import json

import numpy as np
import pytest

from nightshift.serving import json_reader

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
