"""`nightshift renew`: fresh frozen rows from a day on, written where a person would write it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.errors import NightshiftError
from pipelines.params.prepare import Prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose cifar10 holds two days."""
    for name in ("params.yaml", "dvc.yaml", "data.dvc"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "data/cifar10").mkdir(parents=True)
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / f"data/cifar10/date={day}.parquet").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def renew(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["renew", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def renewed(root: Path, dataset: str = "cifar10") -> list[dict[str, str]]:
    prepare = yaml.safe_load((root / "params.yaml").read_text())["datasets"][dataset]["prepare"]
    Prepare.check(prepare, "prepare")
    return list(prepare["frozen"]["renewed"])


def test_the_day_after_the_newest_is_written_and_nothing_else_changes(root: Path) -> None:
    before = (root / "params.yaml").read_text()
    said = renew("cifar10", "--reason", 'a year of looks: "worn"')
    assert "2026-01-03" in said
    assert "git commit" in said
    assert renewed(root) == [{"from": "2026-01-03", "reason": 'a year of looks: "worn"'}]
    assert renewed(root, "mnist") == []
    after = (root / "params.yaml").read_text()
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    assert "`nightshift renew` adds to it" in changed[0][1], "the comment stays"


def test_again_adds_to_the_list(root: Path) -> None:
    renew("cifar10", "--reason", "worn")
    found = json.loads(renew("cifar10", "--reason", "again", "--from", "2026-03-01", "--json"))
    assert (found["from"], found["least"]) == ("2026-03-01", 1000)
    assert [one["from"] for one in renewed(root)] == ["2026-01-03", "2026-03-01"]


def test_a_window_of_days_is_not_renewed(root: Path) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("split: official ", "split: time "))
    before = file.read_text()
    with pytest.raises(NightshiftError, match="come anew by themselves") as refused:
        renew("cifar10", "--reason", "worn")
    assert refused.value.exit_code == 3
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["cifar10", "--from", "2026-01-02"], "models were trained on days up to 2026-01-02", 3),
        (["mnist"], "data/mnist holds no day", 3),
        (["cifar"], "has no data set 'cifar'", 2),
        (["cifar10", "--from", "soon"], "'soon' is no day", 2),
    ],
)
def test_what_cannot_be_fresh_is_refused(root: Path, arguments: list[str], said: str, code: int) -> None:
    before = (root / "params.yaml").read_text()
    with pytest.raises(NightshiftError, match=said) as raised:
        renew(*arguments, "--reason", "worn")
    assert raised.value.exit_code == code
    assert (root / "params.yaml").read_text() == before


def test_the_same_day_twice_is_refused(root: Path) -> None:
    renew("cifar10", "--reason", "worn")
    with pytest.raises(NightshiftError, match="frozen from 2026-01-03 on already"):
        renew("cifar10", "--reason", "worn")
