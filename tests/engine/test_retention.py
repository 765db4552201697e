"""Whatever has happened to a registry: gc and housekeeping together take what nothing needs, and nothing else."""

import os
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine.housekeeping import housekeeping
from nightshift.engine.journal import Journal
from nightshift.engine.key import md5
from nightshift.engine.trace import links
from nightshift.releases import verify
from nightshift.releases.collect import remove, rollback_digest, survey
from nightshift.releases.ledger import Canary, live, rollback_target
from nightshift.releases.marks import Marks
from nightshift.releases.store import Store, open_store
from tests.releases.make import make_release
from tests.serving.world import World

RELEASES, OLD = 7, 60
CONFIG = "[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"


def described(number: int) -> bytes:
    days = {"2026-01-01": md5(b"the day that all have"), "2026-01-02": md5(f"a day of {number}".encode())}
    return f'{{"days": ["2026-01-01", "2026-01-02"], "partitions": {days!s}, "splits": {{}}}}'.replace(
        "'", '"'
    ).encode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Releases whose lineage names a training's program and two days."""
    folders = []
    for number in range(RELEASES):
        folder, probe = tmp_path_factory.mktemp("release") / "release", tmp_path_factory.mktemp("probe") / "probe"
        make_release(probe, seed=number)
        program = (probe / "model.onnx").read_bytes()
        partitions = {"2026-01-01": md5(b"the day that all have"), "2026-01-02": md5(f"a day of {number}".encode())}
        dataset = {"name": "d", "md5": md5(described(number)), "source": "s", "licence": "l", "splits": {},
                   "days": sorted(partitions), "partitions": partitions}  # fmt: skip
        lineage = {"train_outputs": {"artifacts/models/toy/model.onnx": md5(program)}, "dataset": dataset}
        make_release(folder, seed=number, lineage=lineage)
        folders.append(folder)
    return folders


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The nights' repository, with one commit; its id."""
    monkeypatch.setenv("NIGHTSHIFT_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "machine" / ".nightshift"))
    monkeypatch.setenv("NIGHTSHIFT_REPO", str(tmp_path / "repo.git"))
    checkout = tmp_path / "checkout"
    (checkout / ".dvc").mkdir(parents=True)
    (checkout / ".dvc" / "config").write_text(CONFIG.format(url=tmp_path / "work" / "dvc"))
    who = ["-c", "user.name=n", "-c", "user.email=n@n"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run(["git", *who, *command], cwd=checkout, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(checkout), str(tmp_path / "repo.git")], check=True)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True).strip()


def objects_of(folder: Path, number: int) -> dict[str, bytes]:
    contents = [(folder / "model.onnx").read_bytes(), described(number), b"the day that all have"]
    contents += [f"a day of {number}".encode(), f"what only the run of {number} knew".encode()]
    return {md5(content): content for content in contents}


def put(store: Store, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        store.put(f"files/md5/{name[:2]}/{name[2:]}", content)


@pytest.mark.parametrize("seed", range(8))
def test_gc_and_housekeeping_take_what_nothing_needs_and_nothing_else(
    made: list[Path], repository: str, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    world, marks = World(tmp_path), Marks(open_store(str(tmp_path / "registry")))
    dvc, work = open_store(str(tmp_path / "work" / "dvc")), open_store(str(tmp_path / "work"))
    digests = [world.registry.publish(folder) for folder in made]
    numbers = {digest: number for number, digest in enumerate(digests)}
    old = {digest for digest in digests if chance.random() < 0.8}
    for digest_ in old:
        at = (datetime.now(UTC) - timedelta(days=OLD)).timestamp()
        for file in (tmp_path / "registry" / "releases" / "toy" / digest_).iterdir():
            os.utime(file, (at, at))
    for number, folder in enumerate(made):
        put(dvc, objects_of(folder, number))
        base = {"dag": "train_toy", "run": f"r{number}", "commit": repository, "remote": str(tmp_path / "work" / "dvc")}
        base["entry"] = {"md5": md5(f"what only the run of {number} knew".encode())}
        Journal(work, "train_toy", f"r{number}").put("base.json", base)
    put(dvc, {md5(b"nobody's"): b"nobody's"})

    for _ in range(chance.randrange(9)):
        digest_ = chance.choice(digests)
        canary = Canary(weight=0.1) if chance.random() < 0.2 else None
        state = chance.choice(["proven", "proven", "proven", "refused", "superseded", None])
        evidence = {"dag": "train_toy", "run": f"r{numbers[digest_]}", "commit": repository}
        evidence |= {"opponent": chance.choice([*digests, None])}
        world.order(
            digest_, state, canary=canary, what=chance.choice(["deploy", "promote", "rollback"]), evidence=evidence
        )
    history = world.ledger.history("toy")
    champion = live(history)
    coming = {order.digest for order, outcome in history if outcome is None}
    for what in ("keep", "keep", "retire", "retire"):
        digest_ = chance.choice(digests)
        if what == "keep" or digest_ not in coming | {champion.digest if champion else ""}:
            marks.put("toy", what, digest_, who="kim", reason="r", undo=chance.random() < 0.2)

    named, back = chance.choice([*digests, None]), rollback_digest(world.registry, world.ledger, "toy")
    orders = chance.choice([0, 2])
    stands = {
        what: {d for d in digests if (mark := _last(marks.of("toy"), what, d)) and not mark.undo}
        for what in ("keep", "retire")
    }
    # Also what it would go back to if nothing came of the orders on their way.
    settled = [(order, outcome) for order, outcome in history if outcome]
    then = rollback_target(reversed(settled), set(digests) - stands["retire"])
    needed = coming | stands["keep"] | {champion and champion.digest, back, then and then.digest, named}
    mentioned = {
        d
        for order, _ in (history[-orders:] if orders else [])
        for d in (order.digest, order.previous, order.evidence["opponent"])
    }
    needed |= (mentioned | (set(digests) - old)) - stands["retire"]

    rules: dict[str, Any] = {"days": 30, "orders": orders, "opponents": {"toy": named}}
    for found in survey(world.registry, world.ledger, **rules):
        if found.needed is None:
            assert remove(world.registry, world.ledger, found, who="test", **rules)
    left = {info.digest for info in world.registry.list()}
    assert left == needed & set(digests)
    assert verify.check(world.store, None, None) == []
    assert live(world.ledger.history("toy")) == champion
    assert rollback_digest(world.registry, world.ledger, "toy") == back

    housekeeping(now=datetime.now(UTC) + timedelta(days=100), say=lambda _: None)
    ordered = {order.digest for order, _ in history}
    kept = {f"runs/train_toy/r{numbers[d]}/base.json" for d in left & ordered}
    assert set(work.list("runs/")) == kept
    expected = {name for d in left for name in [*objects_of(made[numbers[d]], numbers[d])][: 5 if d in ordered else 4]}
    assert {key[10:].replace("/", "") for key in dvc.list("files/")} == expected
    for digest_ in left & ordered:
        chain = {link.name: link for link in links(world.registry, "toy", digest_)}
        assert (chain["training"].state, chain["data"].state) == ("whole", "whole"), chain


def _last(marks: Any, what: str, digest_: str) -> Any:
    return next((mark for mark in reversed(marks) if (mark.what, mark.digest) == (what, digest_)), None)
