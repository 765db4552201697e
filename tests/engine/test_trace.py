"""From a release back to its data: each link is found, and one flipped byte anywhere breaks the link that it is in."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine.journal import Journal
from nightshift.engine.key import md5
from nightshift.engine.trace import links
from nightshift.releases.signing import SigningKey, sign
from nightshift.releases.store import open_store
from tests.releases.make import make_release
from tests.serving.world import World

CODE = "pipelines/train.py"


@dataclass
class Traced:
    """A release that a night made, with all that it was made of."""

    world: World
    digest: str
    champion: str

    def states(self) -> dict[str, str]:
        return {link.name: link.state for link in links(self.world.registry, "toy", self.digest)}

    def broken(self) -> str | None:
        """The first broken link."""
        return next((name for name, state in self.states().items() if state == "broken"), None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp("trace")
    world, objects = World(folder), open_store(str(folder / "dvc"))

    def keep(content: bytes) -> str:
        name = md5(content)
        objects.put(f"files/md5/{name[:2]}/{name[2:]}", content)
        return name

    champion = world.publish(1)
    world.order(champion, "proven")
    code = b"print('train')\n"
    bare = folder / "repo.git"
    git = ["git", "-C", str(folder / "checkout"), "-c", "user.name=n", "-c", "user.email=n@n", "-c", "commit.gpgsign=0"]
    (folder / "checkout" / "pipelines").mkdir(parents=True)
    (folder / "checkout" / CODE).write_bytes(code)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "code"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(folder / "checkout"), str(bare)], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    described: dict[str, Any] = {
        "days": ["2026-01-01", "2026-01-02"],
        "partitions": {day: keep(f"rows of {day}".encode()) for day in ("2026-01-01", "2026-01-02")},
        "splits": {"test": {"rows": 3}},
    }
    make_release(folder / "probe")  # its program is that of the release below: the lineage names it before
    program = (folder / "probe" / "model.onnx").read_bytes()
    lineage = {
        "opponent": champion,
        "train_outputs": {"artifacts/models/toy/model.onnx": keep(program)},
        "dataset": {"name": "days", "md5": keep(json.dumps(described).encode()), "source": "Krizhevsky 2009",
                    "licence": "none is given", **described},
        "code": {CODE: md5(code)},
    }  # fmt: skip
    digest = world.publish(0, lineage=lineage, metrics={"accuracy": 0.71})
    sign(world.registry, "toy", digest, SigningKey(b"s" * 32))
    journal = Journal(open_store(str(folder / "work")), "train_toy", "r1")
    journal.put("base.json", {"dag": "train_toy", "run": "r1", "remote": str(folder / "dvc")})
    evidence = {"verdict": "pass", "dag": "train_toy", "run": "r1", "commit": commit}
    world.order(digest, "proven", what="deploy", evidence=evidence)
    return Traced(world, digest, champion)


@pytest.fixture
def traced(made: Traced, monkeypatch: pytest.MonkeyPatch) -> Traced:
    monkeypatch.setenv("NIGHTSHIFT_WORK", str(made.world.folder / "work"))
    monkeypatch.setenv("NIGHTSHIFT_REPO", str(made.world.folder / "repo.git"))
    return made


def test_every_link_of_a_whole_chain_is_whole_and_says_what_it_is(traced: Traced) -> None:
    found = {link.name: link for link in links(traced.world.registry, "toy", traced.digest)}
    assert {link.state for link in found.values()} == {"whole"}, list(found.values())
    assert list(found) == ["release", "ledger", "decision", "evaluation", "champion", "training", "data", "code"]
    assert found["release"].facts["signed_by"] == [SigningKey(b"s" * 32).public.id]
    assert "order 2 of test proven" in found["ledger"].said
    assert "accuracy 0.71" in found["decision"].said
    assert traced.champion[:12] in found["champion"].said
    assert found["data"].said == ("2 days of days, 2026-01-01 to 2026-01-02; Krizhevsky 2009; licence: none is given")
    assert found["code"].facts["code"] == {CODE: md5(b"print('train')\n")}


def flips(traced: Traced) -> dict[Path, str]:
    """Every file of registry and DVC store that this release's chain stands on, and the link that it belongs to."""
    folder = traced.world.folder
    mine, met = (folder / "registry/releases/toy" / digest for digest in (traced.digest, traced.champion))
    found = dict.fromkeys(mine.iterdir(), "release") | dict.fromkeys(met.iterdir(), "champion")
    found |= dict.fromkeys((folder / "registry/ledger").rglob("*.json"), "ledger")
    program = md5((mine / "model.onnx").read_bytes())
    for path in (folder / "dvc").rglob("*"):
        if path.is_file():
            found[path] = "training" if path.parent.name + path.name == program else "data"
    return found


def test_one_flipped_byte_anywhere_breaks_the_link_that_it_is_in(traced: Traced) -> None:
    everything = flips(traced)
    assert {*everything.values()} == {"release", "champion", "ledger", "training", "data"}
    for path, link in everything.items():
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        assert traced.broken() == link, path
        path.write_bytes(content)
    assert traced.broken() is None


def test_code_that_the_commit_does_not_hold_breaks_the_link(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = traced.world.folder / "empty.git"
    subprocess.run(["git", "init", "-q", "--bare", str(empty)], check=True)
    monkeypatch.setenv("NIGHTSHIFT_REPO", str(empty))
    assert traced.broken() == "code"


def test_what_cannot_be_looked_at_is_unchecked_never_whole(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTSHIFT_WORK")
    assert {name: state for name, state in traced.states().items() if state != "whole"} == dict.fromkeys(
        ("training", "data", "code"), "unchecked"
    )


def test_a_release_by_hand_ends_where_its_lineage_ends(traced: Traced) -> None:
    states = {link.name: link.state for link in links(traced.world.registry, "toy", traced.champion)}
    whole, unchecked = ("release", "ledger", "decision", "champion"), ("evaluation", "training", "data", "code")
    assert states == dict.fromkeys(whole, "whole") | dict.fromkeys(unchecked, "unchecked")
