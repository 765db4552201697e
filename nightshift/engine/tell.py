"""Tell: every run puts its outcome into its night; who finds that none is missing says, once, what the night came to.

Nothing is sent here: the receipt holds the message, and the operator hands it to Airflow's notifier. Afterwards
``sent`` calls the heartbeat and writes down what became of both.
"""

import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from nightshift.engine import night as nights
from nightshift.engine import outcome
from nightshift.engine.journal import Journal
from nightshift.engine.night import Night
from nightshift.engine.report import Receipt, say
from nightshift.engine.settings import setting
from nightshift.releases.store import Store, open_store

# Worst first; the first line of a message names what happened in this order.
KINDS = (
    "failed", "held", "refused", "fenced", "barred", "waiting", "late",
    "promoted", "not approved", "not passed", "not asked", "superseded", "taken", "done", "unchanged",
)  # fmt: skip
SENT = {"failed", "held", "refused", "fenced", "barred", "waiting", "late"}
HOUSEKEEPING = "housekeeping"
SUBJECT = 160  # characters
LOOKED_BACK = timedelta(days=14)
SHOWN = 60  # nights in the list
WAITING = {"queued", "scheduled", "awaiting_input", "up_for_retry", "up_for_reschedule"}
UNSENT_AFTER = timedelta(minutes=15)  # then who found all outcomes has died before the message was out


def tell(
    dag: str,
    run: str,
    about: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    tasks: Mapping[str, Mapping[str, Any]],
) -> Receipt:
    """Put this run's outcome into its nights, and tell those that wait for nothing more.

    Args:
        about: what Airflow knows: ``date`` and ``after`` (see ``night.join``), ``queues`` (task to the queue that it
            waits on, where that is not the common one), ``paused`` (DAGs) and ``url`` (its own).
        events: the asset events that started the run.
        tasks: each task's ``state``, and ``said`` (its receipt) where it failed.

    Returns:
        ``red`` (whether the run failed) and ``tell``: per night that is to be told now, its message.
    """
    journal = Journal.open(dag, run)
    base = journal.get("base.json") or {}
    if base.get("nights"):
        joined = [Night(journal.store, name) for name in base["nights"]]
    else:  # it did not come to begin, or not to its end
        joined = nights.join(journal.store, dag, run, about, events)
    result = outcome.of(journal, base, tasks, about["queues"])
    messages = []
    for night in joined:
        night.put(f"runs/{dag}", {"run": run, "after": about["after"], "queues": about["queues"]})
        night.replace(f"outcomes/{dag}", result)
        if message := _finish(night, f"{dag}/{run}", about):
            messages.append(message)
    said = ", ".join(f"{part['name']} {part['kind']}" for part in result["parts"])
    names = [night.name for night in joined]
    details = {"nights": names, "red": result["red"], "why": result["why"], "tell": messages}
    return Receipt("done", f"night {', '.join(names)}: {said}", details)


def _finish(night: Night, by: str, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The message, if all outcomes are there and this run is the one that tells; it is again as long as none is out."""
    outcomes, runs, roots = night.all("outcomes"), night.all("runs"), night.get("night", {"roots": []})["roots"]
    if waiting := nights.missing(roots, runs, outcomes, about["paused"]):
        say(f"night {night.name} waits for {', '.join(waiting)}")
        return None
    parts = [part for one in outcomes.values() for part in one["parts"]]
    wanted = any(one["red"] for one in outcomes.values()) or nights.told_by(runs, "good")
    paused = nights.missing(roots, runs, outcomes)  # what it would wait for, were it not paused
    return _claim(night, by, _message(night.name, parts, paused, about["url"], wanted))


def _claim(night: Night, by: str, message: dict[str, Any]) -> dict[str, Any] | None:
    first = night.put("told", {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds"), **message})
    if not first and (night.get("told")["by"] != by or night.get("sent", {"how": "failed"})["how"] != "failed"):
        return None
    return message


def _message(name: str, parts: list[dict[str, Any]], paused: Iterable[str], url: str, wanted: bool) -> dict[str, Any]:
    """``name``, ``subject``, ``body``, ``kind`` (the worst) and whether somebody ``wanted`` to hear of it."""
    ordered = sorted(parts, key=lambda part: (KINDS.index(part["kind"]), part["name"]))
    happened = [f"{part['name']} {part['kind']}" for part in ordered if part["kind"] != "unchanged"]
    subject = f"nightshift {name}: {'; '.join(happened) or 'nothing changed'}"
    if len(subject) > SUBJECT:
        subject = subject[: SUBJECT - 1].rstrip() + "…"
    lines = []
    for part in ordered:
        lines.append(f"{part['about']} {part['name']}: {part['kind']}")
        lines += [f"  {key:<7} {part[key]}" for key in ("why", "score", "cost", "serves", "next") if part.get(key)]
    lines += [f"DAG {dag}: paused, so it did not run" for dag in paused]
    lines += ["", f"{url.rstrip('/')}/nights/{name}"]
    kind = ordered[0]["kind"] if ordered else "unchanged"
    return {
        "name": name,
        "subject": subject,
        "body": "\n".join(lines),
        "kind": kind,
        "wanted": wanted or kind in SENT,
    }


def unfinished(now: datetime | None = None) -> Receipt:
    """The nights of the last days that were not told, or whose message did not go out.

    Returns:
        ``nights``: per night ``name``, ``due`` (it is later than its ``late_after_hours``), ``unsent``, and
        ``missing``: DAG to its ``run`` (None when none began) and the ``queues`` of its tasks.
    """
    now = now or datetime.now(UTC)
    store = open_store(setting("NIGHTSHIFT_WORK"))
    since = (now - LOOKED_BACK).date().isoformat()
    found = []
    for name in (other for other in nights.names(store) if other >= since):
        night = Night(store, name)
        document = night.get("night")
        if document is None or night.get("sent"):
            continue
        told, runs, outcomes = night.get("told"), night.all("runs"), night.all("outcomes")
        age = now - datetime.fromisoformat(document["began"])
        # A run that a night starts with has its key, begun or not.
        first = dict.fromkeys(document["roots"], document["key"])
        missing = {
            dag: {"run": runs.get(dag, {}).get("run", first.get(dag)), "queues": runs.get(dag, {}).get("queues", {})}
            for dag in nights.missing(document["roots"], runs, outcomes)
        }
        found.append(
            {
                "name": name,
                "due": age >= timedelta(hours=nights.told_by(runs, "late_after_hours")),
                "unsent": told is not None and now - datetime.fromisoformat(told["at"]) > UNSENT_AFTER,
                "missing": missing,
            }
        )
    return Receipt("done", f"{len(found)} nights are not told", {"nights": found})


def late(found: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> Receipt:
    """Tell the nights that are late, with what is missing; and what was to be told by somebody who died.

    Args:
        found: what ``unfinished`` found, and for each missing DAG the ``state`` of its run (None: it has none) and its
            ``tasks`` (id to state), by Airflow's word.
        about: ``paused`` and ``url``, see ``tell``.
    """
    store = open_store(setting("NIGHTSHIFT_WORK"))
    messages = []
    for one in found:
        night = Night(store, one["name"])
        if told := night.get("told"):
            if one["unsent"]:
                messages.append({key: told[key] for key in ("name", "subject", "body", "kind", "wanted")})
            continue
        missing = {dag: seen for dag, seen in one["missing"].items() if dag not in about["paused"]}
        ended = all(seen["state"] in ("success", "failed") for seen in missing.values())
        if not (one["due"] or ended):
            continue
        parts = [part for ended_run in night.all("outcomes").values() for part in ended_run["parts"]]
        parts += [_late(dag, seen) for dag, seen in missing.items()]
        paused = sorted(set(one["missing"]) - set(missing))
        if message := _claim(night, HOUSEKEEPING, _message(night.name, parts, paused, about["url"], bool(missing))):
            messages.append(message)
    told_now = ", ".join(message["name"] for message in messages)
    return Receipt("done", f"late: {told_now}" if messages else "no night is late", {"tell": messages})


def _late(dag: str, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What keeps a run: a person, a queue that nobody serves, or a task that goes on."""
    part = {"about": "DAG", "name": dag, "kind": "late"}
    if seen["state"] is None:
        why = "no run of it has begun"
        return part | {"why": why, "next": f"look whether {dag} has another run that is on, or an import error"}
    if seen["state"] in ("success", "failed"):
        return part | {
            "why": f"its run ended ({seen['state']}) without a word",
            "next": "read the log of its task tell",
        }
    waits = {task: state for task, state in seen["tasks"].items() if state in WAITING}
    if not waits:
        runs = [task for task, state in seen["tasks"].items() if state == "running"]
        return part | {"why": f"{', '.join(runs) or 'nothing'} is running", "next": "wait, or look at its log"}
    task, state = next(iter(waits.items()))
    queue = seen["queues"].get(task)
    if state == "awaiting_input":
        return part | {"kind": "waiting", "why": f"{task} waits for a person's answer", "next": "answer it in Airflow"}
    where = f"queue {queue}" if queue else "the default queue"
    return part | {
        "kind": "waiting",
        "why": f"{task} is {state} and no worker takes it: it waits on {where}",
        "next": f"start a worker that serves {where}, or see whether its pool is full",
    }


def sent(name: str, how: str, said: str) -> Receipt:
    """Call the heartbeat, and write down what became of both.

    Args:
        how: of the message: ``sent``, ``not_wanted``, ``no_address``, or ``failed``; then ``said`` has the reason.
    """
    heartbeat = _heartbeat(os.environ.get("NIGHTSHIFT_HEARTBEAT_URL", ""))
    found = {"how": how, "said": said, "heartbeat": heartbeat}
    nights.opened(name).replace("sent", {"at": datetime.now(UTC).isoformat(timespec="seconds"), **found})
    return Receipt("done", f"night {name}: message {how.replace('_', ' ')}, heartbeat {heartbeat}", found)


def _heartbeat(url: str) -> str:
    """What became of the call, in words; the URL is a secret, so it is not among them."""
    if not url:
        return "not set"
    import httpx  # a fifth of what this verb costs, where nobody is called

    problem = ""
    for pause in (0, 1, 3):
        time.sleep(pause)
        try:
            answer = httpx.get(url, timeout=10, follow_redirects=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__
        else:
            if answer.is_success:
                return "called"
            problem = f"it answered {answer.status_code}"
    return f"failed: {problem}"


def shown(name: str | None) -> Any:
    """For the page: the newest nights, or all that is known of one; None when there is no such night."""
    store: Store = open_store(setting("NIGHTSHIFT_WORK"))
    if name is None:
        found = [(other, Night(store, other)) for other in nights.names(store)[:SHOWN]]
        return [{"name": other, "night": night.get("night"), "told": night.get("told")} for other, night in found]
    night = Night(store, name)
    document = night.get("night")
    if document is None:
        return None
    runs, outcomes = night.all("runs"), night.all("outcomes")
    return {
        "name": name,
        "night": document,
        "runs": runs,
        "outcomes": outcomes,
        "missing": nights.missing(document["roots"], runs, outcomes),
        "told": night.get("told"),
        "sent": night.get("sent"),
    }
