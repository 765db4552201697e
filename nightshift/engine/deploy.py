"""Deploy: give the release that this run judged to the endpoint, if the decision says so.

A receipt is not trusted: it names a digest. This registry must hold that release, every byte checked, or gets it from
the package that the run made.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from nightshift.engine import approval, overrides
from nightshift.engine.journal import Journal
from nightshift.engine.judged import Judged
from nightshift.engine.objects import Objects
from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import as_deployer, setting
from nightshift.errors import NightshiftError
from nightshift.releases import signing
from nightshift.releases.errors import ReleaseUnknown
from nightshift.releases.ledger import SLOWER, Canary, Ledger
from nightshift.releases.promotion import promote
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store

EXIT = {
    "proven": 0,
    "unchanged": 0,
    "superseded": 0,
    "not_passed": 0,
    "not_asked": 0,
    "not_approved": 0,
    "refused": 1,
    "fenced": 3,
    "barred": 0,  # nothing went wrong tonight, and every night until there is another model would end red
}


def deploy(model: str, dag: str, run: str) -> Receipt:
    """Order the release, and wait until the endpoint proves it; the receipt says what came of it.

    Raises:
        NightshiftError: the run has no decision or no release, or the registry may not be written.
        ReleaseError: the registry does not answer, or what it holds is not what its digest says.
    """
    as_deployer()
    journal = Journal.open(dag, run)
    base = journal.base()
    found = journal.get("outcome.json")
    if found is None:
        found = _deploy(model, journal, base)
        if not journal.put("outcome.json", found):
            found = journal.get("outcome.json") or found
    elif found["outcome"] == "refused":
        # A refusal may be the endpoint's (it was away): trying again asks the ledger, which knows what is barred.
        again = _deploy(model, journal, base)
        if again["outcome"] != "barred" or found["order"] is None:  # barred by this run's own order: it was refused
            found = again
            journal.replace("outcome.json", found)
    policy = base["params"]["models"][model]["deploy"]
    failed = found["outcome"] == "not_passed" and policy.get("on_not_passed") == "fail"
    details = {key: found[key] for key in ("digest", "order")}
    return Receipt(found["outcome"], f"{model}: {found['message']}", details, 1 if failed else EXIT[found["outcome"]])


def _deploy(model: str, journal: Journal, base: dict[str, Any]) -> dict[str, Any]:
    judged = Judged(journal, base, model)
    decision, digest = judged.decision, judged.digest
    settings = base["params"]["models"][model]
    if reason := _not_asked(base, settings["deploy"]):
        return {"outcome": "not_asked", "message": f"{digest[:12]}: {reason}", "digest": digest, "order": None}
    if not judged.promotes:
        reasons = "; ".join(str(reason) for reason in decision.get("reasons", []))
        message = f"{digest[:12]} does not serve: the gate says {decision['verdict']}" + (
            f": {reasons}" if reasons else ""
        )
        return {"outcome": "not_passed", "message": message, "digest": digest, "order": None}
    approved = None
    if settings["deploy"].get("policy") == approval.ON_APPROVAL:
        approved = approval.recorded(model, digest)
        if approved is None or not approved["approved"]:
            answer = approved or approval.unanswered(journal, model)
            said = approval.said(answer) if answer else f"{digest[:12]}: no approval of it is recorded"
            return {"outcome": "not_approved", "message": said, "digest": digest, "order": None}
    unsigned = (
        f"{model}'s releases must be signed (deploy.signed), and this worker has no {signing.VARIABLE}; make one with "
        "`nightshift signing-key create`, or promote it by hand"
        if settings["deploy"].get("signed") == "required"
        else None
    )
    store = open_store(setting("NIGHTSHIFT_REGISTRY"))
    registry = Registry(store)
    _ensure(registry, model, digest, judged.objects, judged.hash_of(f"artifacts/releases/{model}"))
    recorded = journal.get("record.json") or {}
    result = promote(
        registry,
        Ledger(store),
        model,
        digest,
        endpoints=setting("NIGHTSHIFT_ENDPOINTS").split(","),
        who=f"night {journal.run}",
        what="deploy",
        reason=base["conf"]["reason"] or f"the gate says {decision['verdict']}",
        evidence={
            "verdict": decision["verdict"],
            "opponent": decision["opponent"],
            "dag": journal.dag,
            "run": journal.run,
            "commit": recorded.get("commit", base["commit"]),
            **({"approved_by": approved["who"], "approved_at": approved["at"]} if approved else {}),
        },
        deadline_s=settings["deploy"]["timeout_seconds"],
        fence=decision["opponent"],
        canary=Canary(**trial) if (trial := settings["deploy"].get("canary")) else None,
        slower=settings["deploy"].get("slower", SLOWER),
        key=signing.own_key(os.environ),
        unsigned=unsigned,
        say=say,
    )
    order = result.order.sequence if result.order else None
    return {"outcome": result.state, "message": f"{digest[:12]}: {result.reason}", "digest": digest, "order": order}


def _not_asked(base: dict[str, Any], policy: dict[str, Any]) -> str:
    """Why this run's release is given to nobody, whatever the gate says; empty when it may be."""
    asked = base["conf"].get("deploy")
    if policy.get("policy") == "never":
        return "not deployed: the model's policy is never; `nightshift promote` serves it"
    if asked is False:
        return "not deployed, as the run's form says"
    if base.get("overrides") and asked is None:
        return f"not deployed: {overrides.said(base['overrides'])} was overridden, and the form does not say `deploy`"
    return ""


def _ensure(registry: Registry, model: str, digest: str, objects: Objects, package: str) -> None:
    """The release is in this registry; else it is published from the run's package, which must be that release."""
    try:
        registry.manifest(model, digest)
        return
    except ReleaseUnknown:
        say(f"{digest[:12]} is not in {registry.store.url} yet: publishing the package of this run")
    with tempfile.TemporaryDirectory(prefix="nightshift-release-") as scratch:
        folder = Path(scratch)
        for path, name in objects.members(package).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(objects.read(name))
        published = registry.publish(folder)
    if published != digest:
        raise NightshiftError(
            f"the receipt of {model} names {digest[:12]}, but the package of this run is {published[:12]}",
            "clear the task `publish`",
        )
