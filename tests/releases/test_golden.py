import re

import pytest

from nightshift.releases import golden
from nightshift.releases.errors import FormatTooNew, ReleaseCorrupt


def tensor(data, **changes):
    return {"name": "y", "datatype": "FP32", "shape": [1, len(data)], "data": data, **changes}


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ([], "'y' is missing"),
        ([tensor([0.1, 0.9], datatype="FP64")], "datatype FP64"),
        ([tensor([0.1, 0.9], shape=[2])], r"shape \[2\]"),
        ([tensor([0.1], shape=[1, 2])], "1 values, not 2"),
        ([tensor([0.1, 0.9002])], r"\[1\] is 0.9002"),
        ([tensor([0.1, float("nan")])], "nan"),
        ([tensor([0.1, None])], "None"),
        ([tensor([0.1, "0.9"])], r"\[1\]"),
    ],
)
def test_what_disagrees_is_said_in_words(answered, words) -> None:
    found = golden.difference([tensor([0.1, 0.9])], answered, 1e-4)
    assert found
    assert re.search(words, found), found


def test_answers_within_the_tolerance_agree_and_more_outputs_do_not_hurt() -> None:
    answered = [tensor([0.10005, 0.89995]), tensor([1.0], name="z")]
    assert golden.difference([tensor([0.1, 0.9])], answered, 1e-4) is None


def test_strings_and_integers_must_be_equal() -> None:
    assert golden.difference([tensor(["a"], datatype="BYTES")], [tensor(["b"], datatype="BYTES")], 1e-4)
    assert golden.difference([tensor([3], datatype="INT64")], [tensor([4], datatype="INT64")], 10) is not None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"tolerance": 1, "cases": []}', b'{"tolerance": 0}'])
def test_bytes_that_are_no_golden_requests_are_corrupt(data: bytes) -> None:
    with pytest.raises(ReleaseCorrupt, match=r"golden\.json"):
        golden.load(data)


def test_newer_golden_requests_are_refused_by_name() -> None:
    with pytest.raises(FormatTooNew, match="format 9"):
        golden.load(b'{"format": 9}')
