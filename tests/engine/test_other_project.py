"""The engine alone, in a project that has nothing of ours: no params.yaml, no data sets, no S3."""

import pytest

from tests.engine.conftest import World

DVC_YAML = """
stages:
  greeting:                     # no dependencies, and named as its output is
    wdir: part
    cmd: echo hello > ../greeting
    outs: [../greeting]
  total:
    wdir: part
    cmd: [python total.py, "true"]
    deps: [total.py, ../greeting, ../data/rows.csv, ../code.py]
    params: [settings.toml: [add]]
    outs: [total]
    metrics: [total.json]
"""
FILES = {
    "part/total.py": "print('{}', file=open('total.json', 'w'))\n"
    "print(open('../greeting').read(), open('../data/rows.csv').read(), file=open('total', 'w'))\n",
    "part/settings.toml": "add = 1\n",
    "real.py": "\n",
    "dvc.yaml": DVC_YAML,
    "data/rows.csv": "1,2\n",
    ".gitignore": "/greeting\n/part/total\n/part/total.json\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    tmp_path = tmp_path_factory.mktemp("other")
    world = World(tmp_path / "checkout", tmp_path / "bare.git", tmp_path / "home", str(tmp_path / "work"), {})
    for path, text in FILES.items():
        (world.root / path).parent.mkdir(parents=True, exist_ok=True)
        (world.root / path).write_text(text)
    (world.root / "code.py").symlink_to("real.py")
    world.home.mkdir()
    world.git("init", "-q", "-b", "main", ".")
    world.dvc("init", "-q")
    world.dvc("remote", "add", "-q", "-d", "store", str(tmp_path / "remote"))
    world.dvc("add", "-q", "data/rows.csv")
    world.dvc("push", "-q", "data/rows.csv.dvc")
    world.git("add", ".")
    world.git("commit", "-qm", "start")
    world.git("clone", "-q", "--bare", ".", str(world.bare))
    return world


def test_its_stages_run_and_leave_dvc_nothing_to_do(world: World) -> None:
    at = ("--dag", "dvc", "--run", "one")
    world.engine("begin", *at)
    assert world.engine("stage", "greeting", *at).outcome == "done"
    assert world.engine("stage", "total", *at).outcome == "done"
    world.engine("record", *at)
    clone = world.clone("clone")
    world.dvc("pull", "-q", at=clone)
    assert (clone / "part" / "total").read_text().split() == ["hello", "1,2"]
    assert "up to date" in world.dvc("status", at=clone)

    again = ("--dag", "dvc", "--run", "two")
    world.engine("begin", *again)
    assert world.engine("stage", "greeting", *again).outcome == "unchanged"


def test_a_stage_that_cannot_be_run_is_refused_when_its_run_begins(world: World) -> None:
    text = (world.root / "dvc.yaml").read_text()
    (world.root / "dvc.yaml").write_text(
        text.replace("metrics: [total.json]", "metrics: [{total.json: {cache: false}}]")
    )
    world.git("commit", "-qam", "Edit")
    world.git("push", "-q", "--force", str(world.bare), "main")
    ran = world.try_engine("begin", "--dag", "dvc", "--run", "refused")
    assert ran.status == 1
    assert "dvc.yaml:7: stage 'total' has the output part/total.json with `cache: false`" in ran.output
    assert "next: remove `cache: false` there" in ran.output
    assert list((world.home / "work").iterdir()) == []
