"""The engine alone, in a project that has nothing of ours: no params.yaml, no data sets, no S3."""

from collections.abc import Callable
from pathlib import Path

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
  tool:
    wdir: part
    cmd: cp total.py ../tool && chmod +x ../tool
    deps: [total.py]
    outs: [../tool]
  use:
    cmd: test -x tool && echo used > used
    deps: [tool]
    outs: [used]
"""
FILES = {
    "part/total.py": "print('{}', file=open('total.json', 'w'))\n"
    "print(open('../greeting').read(), open('../data/rows.csv').read(), file=open('total', 'w'))\n",
    "part/settings.toml": "add = 1\n",
    "real.py": "\n",
    "dvc.yaml": DVC_YAML,
    "data/rows.csv": "1,2\n",
    ".gitignore": "/tool\n/used\n/greeting\n/part/total\n/part/total.json\n",
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
    world.git("tag", "start")
    world.git("clone", "-q", "--bare", ".", str(world.bare))
    return world


def test_its_stages_run_and_leave_dvc_nothing_to_do(world: World) -> None:
    at = ("--dag", "dvc", "--run", "one")
    world.engine("begin", *at)
    assert world.engine("stage", "greeting", *at).outcome == "done"
    assert world.engine("stage", "total", *at).outcome == "done"
    assert world.engine("stage", "tool", *at).outcome == "done"
    assert world.engine("stage", "use", *at).outcome == "done"  # it demands the executable bit of its input
    world.engine("record", *at)
    clone = world.clone("clone")
    world.dvc("pull", "-q", at=clone)
    assert (clone / "part" / "total").read_text().split() == ["hello", "1,2"]
    assert "up to date" in world.dvc("status", at=clone)

    again = ("--dag", "dvc", "--run", "two")
    world.engine("begin", *again)
    assert world.engine("stage", "greeting", *again).outcome == "unchanged"


def keep_metrics_here(root: Path) -> None:
    text = DVC_YAML.replace("metrics: [total.json]", "metrics: [{total.json: {cache: false}}]")
    (root / "dvc.yaml").write_text(text)


def commit_an_output(root: Path) -> None:
    (root / ".gitignore").write_text("")
    (root / "part" / "total").write_text("1")


def link_out(root: Path) -> None:
    (root / "hosts").symlink_to("/etc/hosts")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (keep_metrics_here, "dvc.yaml:7: stage 'total' has the output part/total.json with `cache: false`"),
        (commit_an_output, "dvc.yaml:7: stage 'total' makes part/total, which is in the commit too"),
        (link_out, "the commit has hosts, a link that leads out of the repository"),
    ],
)
def test_what_cannot_be_run_is_refused_when_the_run_begins(
    world: World, edit: Callable[[Path], None], words: str
) -> None:
    world.git("reset", "-q", "--hard", "start")
    edit(world.root)
    world.git("add", "--all")
    world.git("commit", "-qm", "Edit")
    world.git("push", "-q", "--force", str(world.bare), "main")
    ran = world.try_engine("begin", "--dag", "dvc", "--run", edit.__name__)
    assert ran.status == 1
    assert words in ran.output
    assert list((world.home / "work").iterdir()) == []
