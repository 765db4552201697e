"""A run with other training parameters: refused by name or computed with them, recorded beside the branch."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.engine import lock
from nightshift.engine.overrides import in_tree, lay, params_of
from nightshift.engine.repository import Repository
from nightshift.errors import NightshiftError
from tests.engine.conftest import World

DAG = ("--dag", "train_m1", "--run")
PARAMS = b"""\
# of all models
models:
  m.1:                # a comment that stays
    dataset: a
    train:
      epochs: 3   # of the whole
      lr: 0.004
      name: "0"
      augment: [crop,
                flip]
      more:
        - 1
        - 2
      empty:
      inner: {deep: yes}
  other: {train: {epochs: 3}}
"""


def begin(world: World, run: str, *texts: str, **conf: Any) -> Any:
    return world.try_engine("begin", *DAG, run, "--conf", json.dumps({"params": list(texts), **conf}))


@pytest.mark.parametrize(
    ("text", "key", "value", "line"),
    [
        ("train.epochs=4", "epochs", 4, "      epochs: 4   # of the whole\n"),
        ("train.lr=1e-5", "lr", 1e-05, "      lr: 1.0e-05\n"),
        ("train.lr=3e-4", "lr", 0.0003, "      lr: 0.0003\n"),
        ('train.name="a: b # c"', "name", "a: b # c", '      name: "a: b # c"\n'),
        ("train.name=yes", "name", "yes", '      name: "yes"\n'),
        ("train.augment=[]", "augment", [], "      augment: []\n"),
        ("train.augment=[flip, crop]", "augment", ["flip", "crop"], '      augment: ["flip", "crop"]\n'),
        ("train.more=[3]", "more", [3], "        [3]\n"),
        ("train.empty=null", "empty", None, "      empty: null\n"),
    ],
)
def test_a_value_is_read_as_dvc_reads_it_and_nothing_else_of_the_file_changes(
    text: str, key: str, value: Any, line: str
) -> None:
    new, laid = lay(PARAMS, "m.1", [text])
    assert laid == {f"train.{key}": value}
    for read in (lock.load, yaml.safe_load):
        wanted = read(PARAMS)
        wanted["models"]["m.1"]["train"][key] = value
        assert read(new) == wanted
    assert line in new.decode()
    assert new.decode().startswith("# of all models\nmodels:\n  m.1:                # a comment that stays\n")


def test_several_are_laid_one_after_the_other() -> None:
    new, laid = lay(PARAMS, "m.1", ["train.epochs=40", "train.inner.deep=no", "train.lr=1"])
    assert list(laid) == ["train.epochs", "train.inner.deep", "train.lr"]
    train = lock.load(new)["models"]["m.1"]["train"]
    assert (train["epochs"], train["inner"], train["lr"]) == (40, {"deep": "no"}, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs=4", "did you mean train.epochs?"),
        ("train.epoch=4", "train.epoch is no parameter of m.1; did you mean train.epochs?"),
        ("make it better", "is no override of a parameter; known: train.epochs, train.lr"),
        ("gate.value_threshold=0", "is no override"),
        ("train.inner=3", "train.inner is no parameter"),
        ("train.epochs=", "is no override"),
        ("train.epochs=2\nmodels: {}", "is no override"),
        ("train.name=a: b", "no number, word, list"),
        ("train.name={a: 1}", "no number, word, list"),
        ("train.name=2026-01-01", "no number, word, list"),
        ("train.name=!!python/name:os.system", "no number, word, list"),
        ("train.lr=.inf", "no number, word, list"),
        ("train.name=[[1]]", "no number, word, list"),
        ("train.name='", "no number, word, list"),
    ],
)
def test_what_is_no_override_is_refused_with_the_nearest_that_is(text: str, words: str) -> None:
    with pytest.raises(NightshiftError) as error:
        lay(PARAMS, "m.1", [text])
    assert words in error.value.message
    assert error.value.exit_code == 2


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(NightshiftError, match=r"train\.epochs is given twice"):
        lay(PARAMS, "m.1", ["train.epochs=4", "train.epochs=5"])


def test_a_value_that_is_shared_by_an_anchor_is_refused() -> None:
    shared = b"models:\n  m: {train: &e {epochs: 3}}\n  n: {train: *e}\n"
    shared += b"  o: {train: {epochs: &f 3}}\n  p: {train: {epochs: *f}}\n"
    for model in ("n", "p"):
        with pytest.raises(NightshiftError, match=r"cannot be overridden as params\.yaml writes it"):
            lay(shared, model, ["train.epochs=4"])


def test_begin_refuses_an_override_before_anything_is_fixed(world: World, run: str) -> None:
    ran = begin(world, run, "train.epoch=3")
    assert ran.status == 2
    assert "train.epoch is no parameter of m1; did you mean train.epochs?" in ran.output
    assert begin(world, run, "train.epochs").status == 2
    assert (
        world.try_engine("begin", "--dag", "ingest_a", "--run", run, "--conf", '{"params": ["train.x=1"]}').status == 2
    )
    with world.settings_of():
        assert world.journal("train_m1", run).get_tree() is None
        assert world.journal("train_m1", run).get("base.json") is None


def test_a_value_that_the_models_typed_section_refuses_ends_begin(world: World, run: str) -> None:
    folder = world.root / "pipelines" / "params"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(
        "import sys\nsys.exit('epochs: -' if 'epochs: -' in open('params.yaml').read() else 0)\n"
    )
    world.git("add", ".")
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    ran = begin(world, run, "train.epochs=-3")
    assert ran.status == 2
    assert "epochs: -\n(with train.epochs=-3)" in ran.output
    assert begin(world, run, "train.epochs=3").status == 0


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("pipelines.train ${key}", "pipelines.train ${key} ${item.train.name}", "cmd"),
        ("[pipelines/train.py,", '[pipelines/train.py, "pipelines/${item.train.name}.py",', "deps"),
    ],
)
def test_an_override_that_would_change_a_command_or_a_dependency_is_refused(
    world: World, run: str, old: str, new: str, part: str
) -> None:
    world.edit("dvc.yaml", old, new)
    ran = begin(world, run, "train.name=;touch /tmp/x;")
    assert ran.status == 2
    assert f"the overrides change {part} of stage 'train@m1'" in ran.output


def test_no_command_of_this_repository_uses_a_free_value() -> None:
    """DVC puts templates into a shell unquoted, so a cmd has keys only: names that params.yaml's check allows."""
    root = Path(__file__).parents[2]
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    commands = [str(stage.get("do", stage)["cmd"]) for stage in stages.values()]
    assert len(commands) > 5
    assert {template for cmd in commands for template in re.findall(r"\$\{.*?\}", cmd)} == {"${key}"}


def test_a_run_with_overrides_is_recorded_beside_the_branch_and_the_next_run_does_not_see_it(
    world: World, run: str
) -> None:
    name = f'train.name="{run} ~ x"'
    before, conf = world.tip(), {"params": ["train.epochs=5", name, ""], "reason": "to see"}
    ran = world.train_run(f"{run}..lock", conf=conf)
    assert "with train.epochs=5" in ran["begin"].output
    assert "parameter models.m1.train.epochs: 2 → 5" in ran["train"].output
    assert ran["record"].outcome == "done"
    assert world.tip() == before

    branch = f"nightshift/train_m1/{run}--lock"
    side = ran["record"].receipt["commit"]
    assert world.git("rev-parse", branch, at=world.bare).strip() == side
    assert world.git("log", "-1", "--format=%P", side, at=world.bare).strip() == before
    assert "with train.epochs=5" in world.git("log", "-1", "--format=%s", side, at=world.bare)
    changed = world.git("diff", "--name-only", before, side, at=world.bare).split()
    assert set(changed) - {"champions/m1.json"} == {"dvc.lock", "params.yaml"}
    recorded = lock.load(world.git("show", f"{side}:dvc.lock", at=world.bare))["stages"]["train@m1"]
    assert recorded["params"]["params.yaml"]["models.m1.train"]["epochs"] == 5

    clone = world.clone("side")
    world.git("switch", "-q", branch, at=clone)
    world.dvc("pull", "-q", "data.dvc", *lock.load((clone / "dvc.lock").read_bytes())["stages"], at=clone)
    assert "Running stage" not in world.dvc("repro", "train@m1", "evaluate@m1", at=clone)

    normal = world.train_run(f"{run}-2")
    assert normal["train"].outcome == "unchanged"
    assert normal["record"].receipt["commit"] == before


def test_a_record_beside_the_branch_that_died_before_saying_so_is_found(world: World, run: str) -> None:
    """Behind a URL, as a team has it; the second attempt makes another commit of the same files."""
    url = {"NIGHTSHIFT_REPO": world.bare.as_uri()}
    commit = world.train_run(run, conf={"params": [f"train.name={run}"]})["record"].receipt["commit"]
    with world.settings_of():
        journal = world.journal("train_m1", run)
        journal.store.delete(f"{journal.prefix}record.json")
    assert world.engine("record", *DAG, run, **url).receipt["commit"] == commit
    with world.settings_of():
        journal.store.delete(f"{journal.prefix}record.json")
        with Repository.open(str(world.bare)) as repository:
            other = repository.commit(commit, {"x": b"1"}, "somebody else's")
            assert not repository.advance(f"nightshift/train_m1/{run}", str(other), commit)
    ran = world.try_engine("record", *DAG, run, **url)
    assert ran.status == 1
    assert "could not be made" in ran.output


def test_an_attempt_that_died_after_the_tree_lays_the_overrides_over_the_commit_again(world: World, run: str) -> None:
    assert begin(world, run, "train.epochs=7").status == 0
    base = world.fragment("train_m1", run, "base.json")
    with world.settings_of():
        journal = world.journal("train_m1", run)
        assert b"epochs: 7" in params_of(journal.tree())
        journal.store.delete(f"{journal.prefix}base.json")
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    assert begin(world, run, "train.epochs=7").status == 0
    assert world.fragment("train_m1", run, "base.json") == base
    assert base["overrides"] == {"train.epochs": 7}


def test_the_archive_with_other_params_is_else_the_same(world: World) -> None:
    def members(tree: bytes) -> dict[str, Any]:
        with tarfile.open(fileobj=io.BytesIO(tree), mode="r:gz") as archive:
            assert archive.pax_headers["comment"] == world.tip()
            files = {m.name: archive.extractfile(m) for m in archive}
            return {m.name: (m.mode, m.type, (f := files[m.name]) and f.read()) for m in archive.getmembers()}

    (world.root / "run.sh").write_text("exit")
    (world.root / "run.sh").chmod(0o755)
    (world.root / "link").symlink_to("run.sh")
    world.git("add", ".")
    world.edit("params.yaml", "epochs: 2", "epochs: 2")
    with Repository.open(str(world.bare)) as repository:
        tree = repository.archive(world.tip())
    was, now = members(tree), members(in_tree(tree, b"x: 1\n"))
    assert now.pop("params.yaml") == (was.pop("params.yaml")[0], b"0", b"x: 1\n")
    assert now == was
    assert was["run.sh"][0] & 0o100
