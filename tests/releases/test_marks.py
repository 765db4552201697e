"""Keep and retire: append-only marks, the newest of a kind counts."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nightshift.releases.errors import ReleaseCorrupt
from nightshift.releases.marks import Marks, retirement, standing
from nightshift.releases.store import open_store

A, B = "a" * 64, "b" * 64


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(open_store(str(tmp_path)))


def test_the_newest_mark_of_a_kind_counts_and_an_undo_takes_it_back(marks: Marks) -> None:
    assert standing(marks.of("toy"), "keep", A) is None
    marks.put("toy", "keep", A, who="kim", reason="the paper's model")
    marks.put("toy", "retire", B, who="kim", reason="old")
    assert standing(marks.of("toy"), "keep", A).reason == "the paper's model"
    assert standing(marks.of("toy"), "keep", B) is None
    marks.put("toy", "keep", A, who="kim", reason="the paper is out", undo=True)
    assert standing(marks.of("toy"), "keep", A) is None
    assert [mark.sequence for mark in Marks(marks.store).of("toy")] == [1, 2, 3]


def test_a_retirement_is_said_in_words_of_a_release_and_of_a_model_with_its_successor(marks: Marks) -> None:
    marks.put("toy", "retire", A, who="kim", reason="a leak")
    assert retirement(marks.of("toy"), "toy", A) == "release aaaaaaaaaaaa of 'toy' was retired: a leak"
    assert retirement(marks.of("toy"), "toy", B) is None
    assert retirement(marks.of("toy"), "toy") is None
    marks.put("toy", "retire", None, who="kim", reason="replaced", successor="toy2")
    assert retirement(marks.of("toy"), "toy", B) == "model 'toy' was retired: replaced; ask 'toy2' instead"


def test_sixteen_writers_at_once_lose_no_mark(marks: Marks) -> None:
    with ThreadPoolExecutor(16) as pool:
        put = list(pool.map(lambda n: Marks(marks.store).put("toy", "keep", A, who=f"w{n}", reason="r"), range(16)))
    assert sorted(mark.sequence for mark in put) == list(range(1, 17))
    assert sorted(put, key=lambda mark: mark.sequence) == marks.of("toy")


def test_a_flipped_byte_in_a_mark_is_found(marks: Marks) -> None:
    marks.put("toy", "keep", A, who="kim", reason="the paper")
    key = "ledger/toy/marks/00000001.json"
    marks.store.put(key, marks.store.get(key).replace(b"the paper", b"the pAper"))
    with pytest.raises(ReleaseCorrupt, match=r"marks/00000001\.json"):
        Marks(marks.store).of("toy")
    assert json.loads(marks.store.get(key))["reason"] == "the pAper"
