"""What DVC cannot read is told with the file and the line, in DVC's words."""

from pathlib import Path

import pytest

from nightshift.engine import dvc_index
from nightshift.errors import NightshiftError

BROKEN = {
    "a key that there is not": ("stages:\n  train:\n    cmd: echo\n    dep: [a]\n", 4, "extra keys not allowed"),
    "a command that is not there": ("stages:\n  train:\n    deps: [a]\n", 2, "required key not provided"),
    "no mapping": ("- a\n", 1, "expected a dictionary"),
    "a list that does not end": ("stages:\n  a:\n    cmd: [echo\n    deps: a\n", 4, "expected ',' or ']'"),
    "a tab": ("stages:\n\ta: {cmd: x}\n", 2, "cannot start any token"),
    "a template of nothing": ("stages:\n  a:\n    cmd: echo\n    outs: ['${x.y}']\n", 4, "Could not find 'x.y'"),
    "a template in a loop": (
        "stages:\n  b: {cmd: x}\n  a:\n    foreach: [1]\n    do:\n      cmd: x ${nope}\n",
        3,
        "Could not find 'nope'",
    ),
    "vars that are not there": ("stages:\n  a: {cmd: x}\nvars: [nope.yaml]\n", 3, "does not exist"),
    "two makers": (
        "stages:\n  a: {cmd: x, outs: [o]}\n  b: {cmd: x, outs: [o]}\n",
        (2, 3),
        "is specified in",
    ),
    "an output in another": ("stages:\n  a: {cmd: x, outs: [o]}\n  b: {cmd: x, outs: [o/p]}\n", (2, 3), "overlap"),
    "a circle": (
        "stages:\n  a: {cmd: x, outs: [p], deps: [q]}\n  b: {cmd: x, outs: [q], deps: [p]}\n",
        (2, 3),
        "both a dependency and an output",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_error_names_file_and_line(tmp_path: Path, case: str) -> None:
    text, line, words = BROKEN[case]
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(NightshiftError) as error:
        dvc_index.read(tmp_path)
    assert words in error.value.message
    lines = [line] if isinstance(line, int) else line
    assert any(f"dvc.yaml:{number}: " in error.value.message for number in lines), error.value.message


def test_a_tracking_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "rows.dvc").write_text("outs:\n- md5: 12\n  path: rows\n")
    with pytest.raises(NightshiftError, match=r"rows\.dvc:2: .*not a valid value"):
        dvc_index.read(tmp_path)
