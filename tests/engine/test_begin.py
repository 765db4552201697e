"""Begin fixes what a run is based on, or says what is wrong before anything ran."""

import json

import pytest

from nightshift.engine.journal import Journal
from nightshift.engine.plan import _unclear
from tests.engine.conftest import World

TRAIN = ("--dag", "train_m1", "--run")


def test_the_base_is_the_tip_and_a_retry_keeps_it_though_the_tip_moved(world: World, run: str) -> None:
    tip = world.tip()
    assert world.engine("begin", *TRAIN, run).receipt["commit"] == tip
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    assert world.tip() != tip
    again = world.engine("begin", *TRAIN, run)
    assert again.receipt["commit"] == tip
    assert "fixed before" in again.output


def test_an_attempt_that_died_after_the_tree_fixes_the_commit(world: World, run: str) -> None:
    tip = world.tip()
    with world.settings_of():
        journal = world.journal("train_m1", run)
        world.engine("begin", *TRAIN, run)
        journal.store.delete(f"{journal.prefix}base.json")
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    assert world.engine("begin", *TRAIN, run).receipt["commit"] == tip


def test_an_attempt_that_another_one_overtakes_at_the_tree_is_still_part_of_its_night(
    world: World, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Journal.put_tree

    def after_another(journal: Journal, archive: bytes) -> bool:
        put(journal, archive)
        return put(journal, archive)

    monkeypatch.setattr(Journal, "put_tree", after_another)
    about = {"date": "2026-01-02", "after": {"train_m1": []}, "queues": {}}
    assert world.engine("begin", *TRAIN, run, "--about", json.dumps(about)).receipt["commit"] == world.tip()
    with world.settings_of():
        assert len(world.journal("train_m1", run).base()["nights"]) == 1


def test_a_commit_of_an_event_that_the_tip_contains_gives_the_tip(world: World, run: str) -> None:
    old = world.tip()
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    ran = world.engine("begin", *TRAIN, run, "--events", json.dumps([{"dataset": "a", "commit": old}]))
    assert ran.receipt["commit"] == world.tip()


def test_a_commit_of_an_event_on_a_side_branch_is_the_base(world: World, run: str) -> None:
    world.git("switch", "-q", "-c", "side")
    world.edit_here("pipelines/evaluate.py", "import json", "import json  # side")
    world.git("push", "-q", "origin", "side")
    side = world.git("rev-parse", "side").strip()
    ran = world.engine("begin", *TRAIN, run, "--events", json.dumps([{"commit": side}]))
    assert ran.receipt["commit"] == side


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"untill": "2026-01-01"}, "untill"),
        ({"until": "yesterday"}, "'yesterday' is no day"),
        ({"rerun": "yes"}, "write true or false"),
    ],
)
def test_a_form_that_is_wrong_is_refused_by_name(world: World, run: str, conf: dict, words: str) -> None:
    ran = world.try_engine("begin", *TRAIN, run, "--conf", json.dumps(conf))
    assert ran.status == 2
    assert words in ran.output
    assert ran.outcome == "failed"


def test_the_form_wins_over_the_schedule_for_the_last_day(world: World, run: str) -> None:
    conf = json.dumps({"until": "2026-01-03", "rerun": False, "reason": None})
    ran = world.engine("begin", *TRAIN, run, "--until", "2026-02-01", "--conf", conf)
    assert ran.receipt["until"] == "2026-01-03"


def test_wrong_params_stop_the_run_with_the_message_of_the_check(world: World, run: str) -> None:
    folder = world.root / "pipelines" / "params"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text("import sys\nsys.exit('models.m1.trian: unknown; did you mean train?')\n")
    world.git("add", ".")
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    ran = world.try_engine("begin", *TRAIN, run)
    assert ran.status == 1
    assert "models.m1.trian: unknown; did you mean train?" in ran.output


def test_a_snapshot_that_is_not_in_this_remote_stops_the_run_with_the_way_out(world: World, run: str) -> None:
    entry = world.at_tip("data.dvc").split("md5: ")[1].split(".dir")[0]
    world.edit("data.dvc", entry, "0" * 32)
    ran = world.try_engine("begin", "--dag", "ingest_a", "--run", run)
    assert ran.status == 1
    assert "data/a" in ran.output
    assert "dvc push data/a" in ran.output


def test_inputs_that_no_run_has_made_stop_the_run(world: World, run: str) -> None:
    world.git("rm", "-q", "dvc.lock")
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    ran = world.try_engine("begin", *TRAIN, run)
    assert ran.status == 1
    assert "artifacts/datasets/a/test, which no run has made yet" in ran.output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("${key}/model.onnx\n        - champions", "${key}\n        - champions", "around"),
        ("- artifacts/datasets/${item.dataset}/test\n", "- artifacts/datasets/${item.dataset}/test/x.txt\n", "inside"),
        ("- pipelines/evaluate.py", "- pipelines/evaluat.py", "neither in the commit nor made by a stage"),
        ('metrics: ["artifacts/evaluations/${key}/metrics.json"]',
         'metrics: ["artifacts/evaluations/${key}/metrics.json": {cache: false}]', "cache: false"),
    ],
)  # fmt: skip
def test_a_graph_that_breaks_a_house_rule_is_refused(world: World, run: str, old: str, new: str, words: str) -> None:
    world.edit("dvc.yaml", old, new)
    ran = world.try_engine("begin", *TRAIN, run)
    assert ran.status == 1
    assert "stage 'evaluate@m1'" in ran.output
    assert words in ran.output


STAGE = {
    "values": {"params.yaml": {"x": 1}}, "params": {"params.yaml": ["x"]}, "deps": ["a"], "wdir": ".",
    "outs": [{"path": "o"}], "frozen": False, "always_changed": False,
}  # fmt: skip
ENTRY = {"deps": [{"path": "a", "hash": "md5", "md5": "1"}], "outs": [{"path": "o", "hash": "md5", "md5": "2"}]}


@pytest.mark.parametrize(
    "stage",
    [
        {"values": None},
        {"values": {"params.yaml": {}}},
        {"deps": []},
        {"outs": []},
        {"frozen": True},
        {"always_changed": True},
        {"wdir": "sub"},
    ],
)
def test_what_the_comparison_does_not_understand_goes_to_dvc(stage: dict) -> None:
    assert _unclear(STAGE, ENTRY) is None
    assert _unclear(STAGE | stage, ENTRY)


def test_a_lock_entry_of_an_older_dvc_goes_to_dvc() -> None:
    assert _unclear(STAGE, {"deps": [{"path": "a", "md5": "1"}], "outs": ENTRY["outs"]})


def test_runs_whose_ids_look_alike_in_keys_are_not_mixed(world: World, run: str) -> None:
    world.engine("begin", *TRAIN, f"{run}:1")
    ran = world.try_engine("begin", *TRAIN, f"{run}+1")
    assert ran.status == 1
    assert "another run id" in ran.output


def test_a_rerun_reaches_the_runs_that_it_starts(world: World, run: str) -> None:
    events = [{"commit": world.tip(), "rerun": True, "reason": "a doubt"}]
    form = ("--conf", json.dumps({"rerun": False, "reason": None}))
    ran = world.engine("begin", *TRAIN, run, *form, "--events", json.dumps(events))
    assert "every stage computed again" in ran.receipt["message"]
    with world.settings_of():
        assert world.journal("train_m1", run).base()["conf"]["reason"] == "a doubt"
