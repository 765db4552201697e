"""Pin: name the release that tonight's challenger meets, in ``champions/<model>.json``.

The file is an input of evaluate, so it changes only when a look at the test rows is due: not when the challenger is
what serves already, and not when this very challenger met this opponent before.
"""

import json
from collections.abc import Mapping
from typing import Any

from nightshift.engine.journal import Journal
from nightshift.engine.key import md5
from nightshift.engine.objects import Objects
from nightshift.engine.plan import wanted
from nightshift.engine.report import Receipt
from nightshift.engine.settings import home, setting
from nightshift.errors import NightshiftError
from nightshift.releases.ledger import Ledger, Order
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store


def pin(model: str, dag: str, run: str) -> Receipt:
    """Put this run's champion file, which may be the one that the commit has."""
    journal = Journal.open(dag, run)
    base = journal.base()
    path = f"champions/{model}.json"
    fragment = journal.get(f"champions/{model}.json")
    if fragment is None:
        text = base["champions"][model]
        before = json.loads(text)
        hashes = _hashes(base, journal.fragments(), path)
        now, why = meet(model, before, hashes, Objects(base["remote"], home() / "cache"))
        if now != before:
            text = json.dumps(now) + "\n"
        outcome = "done" if now != before else "unchanged"
        fragment = {
            "model": model,
            "path": path,
            "text": text,
            "md5": md5(text.encode()),
            "outcome": outcome,
            "why": why,
        }
        if not journal.put(f"champions/{model}.json", fragment):
            fragment = journal.get(f"champions/{model}.json") or fragment
    return Receipt(fragment["outcome"], f"{model}: {fragment['why']}", {"champion": json.loads(fragment["text"])})


def meet(model: str, before: dict[str, Any], hashes: Mapping[str, str], objects: Objects) -> tuple[dict[str, Any], str]:
    """``decide``, with what the ledger says now and the frozen rows that judge in this run."""
    store = open_store(setting("NIGHTSHIFT_REGISTRY"))
    live = Ledger(store).live(model)
    built_from = Registry(store).manifest(model, live.digest).lineage.get("train_outputs", {}) if live else {}
    return decide(before, live, built_from, model, hashes, _frozen(hashes, objects))


def decide(
    before: dict[str, Any],
    live: Order | None,
    built_from: dict[str, str],
    model: str,
    hashes: Mapping[str, str],
    frozen: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """The champion file that this run wants, and why.

    Args:
        before: the file as the commit has it.
        live: the newest proven order of this model.
        built_from: path to md5 of the training outputs that the live release was built from (its lineage).
        hashes: path to md5 of what evaluate reads in this run.
        frozen: what the data set says of its frozen rows. While their ``edition`` stays, more rows may join them and
            looks are counted on. A window of days (``split`` is time) moves on: the looks that count are those at a
            window that shared a day with it. Without an edition (a project that names none) other test rows are fresh.
    """
    program = hashes.get(f"artifacts/models/{model}/model.onnx")
    tests = [
        digest for path, digest in hashes.items() if path.startswith("artifacts/datasets/") and path.endswith("/test")
    ]
    test = tests[0] if tests else None
    serves = bool(built_from) and all(hashes.get(path) == trained for path, trained in built_from.items())
    digest = live.digest if live else None
    name = digest[:12] if digest else "nobody"
    if serves:
        return before, f"the challenger is what serves ({name}): nothing to judge again"
    if before["judged"] == program and digest == before["digest"]:
        return before, f"this challenger was judged against {name} before"
    promoted = live is not None and live.digest != before["digest"] and live.what != "rollback"
    now = {name: value for name, value in before.items() if name != "looked"}
    return {
        **now,
        "digest": digest,
        "test": test,
        **_counts(before, test, frozen or {}, promoted),
        "judged": program,
    }, f"the challenger meets {name}"


def _counts(before: dict[str, Any], test: str | None, frozen: Mapping[str, Any], promoted: bool) -> dict[str, Any]:
    """How often these frozen rows were looked at, this time included, and led to a promotion."""
    edition = frozen.get("edition")
    if frozen.get("split") == "time":
        looked = [dict(look) for look in before.get("looked", [])]
        if looked:
            looked[-1]["promoted"] = promoted
        looked = [look for look in looked if look["newest"] >= edition]
        looked.append({"newest": frozen["newest"], "promoted": False})
        promotions = sum(look["promoted"] for look in looked)
        return {"edition": edition, "looks": len(looked), "promotions": promotions, "looked": looked}
    fresh = before["test"] != test if edition is None else before.get("edition") != edition
    return {
        **({"edition": edition} if edition is not None else {}),
        "looks": (0 if fresh else before["looks"]) + 1,
        "promotions": 0 if fresh else before["promotions"] + promoted,
    }


def _frozen(hashes: Mapping[str, str], objects: Objects) -> dict[str, Any]:
    """What ``dataset.json`` says of the frozen rows; nothing where there is no such file."""
    described = next((digest for path, digest in hashes.items() if path.endswith("/dataset.json") and digest), None)
    frozen: dict[str, Any] = objects.read_json(described).get("frozen", {}) if described else {}
    return frozen


def _hashes(base: dict[str, Any], fragments: dict[str, dict[str, dict[str, Any]]], path: str) -> dict[str, str]:
    """What the stage that reads the champion file reads beside it."""
    readers = [name for name, plan in base["stages"].items() if path in plan["code"]]
    if not readers:
        raise NightshiftError(f"no stage of {base['dag']} depends on {path}", "let evaluate depend on it in dvc.yaml")
    base = {**base, "pin": []}  # this file is what is being made
    return wanted(readers[0], base, fragments)
