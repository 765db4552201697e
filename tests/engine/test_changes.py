"""What differs between a lock entry and what a run wants is found, and told in words."""

import pytest

from nightshift.engine.changes import changes

PLAN = {"cmd": "c", "params": {"params.yaml": {"x": 1}}, "outs": ["o"], "wdir": ".", "generated": ["g"]}
ENTRY = {
    "cmd": "c",
    "params": {"params.yaml": {"x": 1}},
    "deps": [{"path": "a", "md5": "1"}, {"path": "g", "md5": "4"}],
    "outs": [{"path": "o", "md5": "3"}],
}
INPUTS = {"a": "1", "g": "4"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, []),
        ({"cmd": "other"}, ["command: other → c"]),
        ({"params": {"params.yaml": {"x": 2}}}, ["parameter x: 2 → 1"]),
        ({"params": {}}, ["parameter x: nothing → 1"]),
        ({"params": {"params.yaml": {"x": 1}, "other.yaml": {"y": None}}}, []),
        ({"params": {"params.yaml": {"x": 1}, "other.yaml": {"y": "z"}}}, ['parameter other.yaml:y: "z" → nothing']),
        ({"deps": [{"path": "a", "md5": "2"}, {"path": "g", "md5": "4"}]}, ["code a"]),
        ({"deps": [{"path": "a", "md5": "1"}, {"path": "g", "md5": "5"}]}, ["input g"]),
        ({"deps": [{"path": "g", "md5": "4"}]}, ["code a (new)"]),
        ({"deps": [*ENTRY["deps"], {"path": "champions/m.json", "md5": "6"}]}, ["opponent champions/m.json (no more)"]),
        ({"outs": [{"path": "p", "md5": "3"}]}, ["output o (new)", "output p (no more)"]),
        ({"outs": [{"path": "o"}]}, ["output without a hash o"]),
    ],
)
def test_every_difference_of_a_lock_entry_is_named(entry: dict, words: list[str]) -> None:
    assert [str(change) for change in changes(PLAN, INPUTS, ENTRY | entry)] == words


def test_of_a_section_each_value_that_differs_is_named() -> None:
    was = {"epochs": 2, "augment": ["crop"], "patience": None, "old": 1, "inner": {"a": 1, "b": 2}}
    now = {"epochs": 3, "augment": ["crop", "flip"], "patience": 5, "new": 0.5, "inner": {"a": 1, "b": 3}}
    plan = PLAN | {"params": {"params.yaml": {"m.train": now}}}
    assert [str(change) for change in changes(plan, INPUTS, ENTRY | {"params": {"params.yaml": {"m.train": was}}})] == [
        "parameter m.train.epochs: 2 → 3",
        'parameter m.train.augment: ["crop"] → ["crop", "flip"]',
        "parameter m.train.patience: null → 5",
        "parameter m.train.old: 1 → nothing",
        "parameter m.train.inner.b: 2 → 3",
        "parameter m.train.new: nothing → 0.5",
    ]


def test_what_was_never_recorded_has_nothing_to_compare_with() -> None:
    assert [str(change) for change in changes(PLAN, INPUTS, None)] == ["never recorded"]


def test_the_whole_line_has_the_digests() -> None:
    (change,) = changes(PLAN, INPUTS | {"g": "5"}, ENTRY)
    assert change.whole() == "input g: 4 → 5"
