"""Approval: where a model's policy asks for it, a person says yes or no to this very release before it is ordered.

The answer stands beside the releases (``approvals/<model>/<digest>.json``, create-only), where workers cannot write;
deploy looks for it there, never at a task's state. A release is asked about once: a no stands until a person promotes
it by name. When nobody answered in time, the next night asks again.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any

from nightshift.engine.journal import Journal
from nightshift.engine.judged import Judged
from nightshift.engine.report import Receipt
from nightshift.engine.settings import as_deployer, setting
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store, open_store

ON_APPROVAL = "approval"
_HOURS = 24  # that a person has to answer where the model's deploy.approval_hours says nothing


def ask(model: str, dag: str, run: str) -> Receipt:
    """What a person is asked about this run's release, or why nobody is.

    Returns:
        Outcome ``waiting`` with ``subject``, ``body`` (Markdown), ``digest`` and ``hours``; ``not_asked`` when the
        gate did not pass it, or it will not be deployed; ``done`` when the answer is there already.
    """
    as_deployer()
    journal = Journal.open(dag, run)
    base = journal.base()
    policy = base["params"]["models"][model]["deploy"]
    judged = Judged(journal, base, model)
    decision, digest = judged.decision, judged.digest
    if found := recorded(model, digest):
        return Receipt("done", f"{model}: {said(found)}", found)
    if not judged.promotes:
        return Receipt("not_asked", f"{model}: nobody is asked, the gate says {decision['verdict']}")
    hours = policy.get("approval_hours") or _HOURS
    subject = f"Serve {model} {digest[:12]}?"
    details = {"subject": subject, "body": body(model, digest, decision), "digest": digest, "hours": hours}
    return Receipt("waiting", f"{model}: {subject} A person has {hours:g} h to answer", details)


def answer(model: str, dag: str, run: str, given: dict[str, Any]) -> Receipt:
    """Keep a person's answer, create-only; that nobody answered is kept in the run's journal alone.

    Args:
        given: ``approved``, ``who`` (None: nobody answered in time), ``reason`` and ``digest`` (what was asked about).

    Raises:
        NightshiftError: this run's release is another by now.
    """
    as_deployer()
    journal = Journal.open(dag, run)
    digest = Judged(journal, journal.base(), model).digest
    if given["digest"] != digest:
        raise NightshiftError(
            f"the answer is about {given['digest'][:12]}, and this run's release is {digest[:12]}",
            "clear the task `approval`: it asks again",
        )
    found = {"model": model, **given, "dag": dag, "run": run, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    if given["who"] is None:
        journal.put(f"unanswered/{model}.json", found)
    elif not _store().put_new(_key(model, digest), (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()):
        found = recorded(model, digest) or found
    return Receipt("done", f"{model}: {said(found)}", found)


def recorded(model: str, digest: str) -> dict[str, Any] | None:
    """A person's answer about this release; None while there is none."""
    try:
        found: dict[str, Any] = json.loads(_store().get(_key(model, digest)))
    except KeyError:
        return None
    return found


def unanswered(journal: Journal, model: str) -> dict[str, Any] | None:
    """That nobody answered in this run, in time."""
    return journal.get(f"unanswered/{model}.json")


def said(found: dict[str, Any]) -> str:
    """The answer in words."""
    reason = f": {found['reason']}" if found.get("reason") else ""
    if found["approved"]:
        return f"{found['digest'][:12]} approved by {found['who']}{reason}"
    if found["who"] is None:
        return f"{found['digest'][:12]} was not approved in time: nobody answered"
    return f"{found['digest'][:12]} rejected by {found['who']}{reason}"


def body(model: str, digest: str, decision: dict[str, Any]) -> str:
    """The decision as Markdown, for the form in Airflow."""
    opponent = f"`{decision['opponent'][:12]}`" if decision.get("opponent") else "nobody: it would be the first"
    lines = [f"Release `{digest[:12]}` of **{model}**; it would replace {opponent}.", ""]
    if "accuracy" in decision:
        low, high = decision.get("accuracy_low", 0.0), decision.get("accuracy_high", 0.0)
        lines += [f"Accuracy {decision['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}).", ""]
    lines += ["| criterion | verdict | |", "|---|---|---|"]
    lines += [
        f"| {_cell(one['name'])} | {_cell(one['verdict'])} | {_cell(one['reason'])} |" for one in decision["criteria"]
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that stays text in a table of Markdown."""
    text = re.sub(r"([\\`*_{}\[\]|])", r"\\\1", text)
    return " ".join(text.replace("<", "&lt;").replace(">", "&gt;").split())


def _store() -> Store:
    return open_store(setting("NIGHTSHIFT_REGISTRY"))


def _key(model: str, digest: str) -> str:
    return f"approvals/{model}/{digest}.json"
