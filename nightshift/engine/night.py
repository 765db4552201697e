"""A night in S3: which runs it has, what became of each, and whether it was told.

=============================  ============================================================================
key under nights/<date>.<n>    what
=============================  ============================================================================
night.json                     its key, and the DAGs that it starts with
runs/<dag>.json                the run that began, and what it knows of the graph and of params.yaml
outcomes/<dag>.json            what became of that run
told.json                      who found all outcomes (or found it late), and the message; put once
sent.json                      what became of the message and of the heartbeat
=============================  ============================================================================

The runs of one schedule time, and those of one call of ``nightshift night``, have the same run id: that is the night's
key. A run that a person triggers alone is a night of its own. The runs that assets start are handed the name in the
event. What is put here is never changed, but for the outcome of a run that is cleared and ends again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nightshift.engine.settings import setting
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store, open_store

FORMAT = 1
SCHEDULED = "scheduled__"  # Airflow's run ids of a schedule
DEFAULTS = {"late_after_hours": 6, "good": False}  # where params.yaml says nothing


@dataclass(frozen=True)
class Night:
    """One night, by name."""

    store: Store
    name: str

    def get(self, part: str, otherwise: Any = None) -> Any:
        """One object; ``otherwise`` when it is not there.

        Raises:
            NightshiftError: it was written by another version.
        """
        try:
            value: dict[str, Any] = json.loads(self.store.get(f"nights/{self.name}/{part}.json"))
        except KeyError:
            return otherwise
        if value.get("format") != FORMAT:
            raise NightshiftError(
                f"nights/{self.name}/{part}.json has format {value.get('format')!r}; this Nightshift reads {FORMAT}",
                "read it with the Nightshift that wrote it",
            )
        return value

    def put(self, part: str, value: Mapping[str, Any]) -> bool:
        """Put an object if there is none; False when there is one."""
        return bool(self.store.put_new(f"nights/{self.name}/{part}.json", _dump(value)))

    def replace(self, part: str, value: Mapping[str, Any]) -> None:
        """Put an object over the one that is there."""
        self.store.put(f"nights/{self.name}/{part}.json", _dump(value))

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """The ``runs`` or ``outcomes`` there are, by DAG."""
        prefix = f"nights/{self.name}/{kind}/"
        names = [key.removeprefix(prefix).removesuffix(".json") for key in self.store.list(prefix)]
        return {name: self.get(f"{kind}/{name}") for name in names}


def opened(name: str) -> Night:
    """The night in ``NIGHTSHIFT_WORK``."""
    return Night(open_store(setting("NIGHTSHIFT_WORK")), name)


def claim(store: Store, key: str, date: str, roots: Iterable[str]) -> Night:
    """The night of this key: found, or put under the lowest free number of its date.

    Args:
        key: the run id that its first runs share.
        date: the day on which it runs, YYYY-MM-DD; decided by the key, so that all who ask say the same.
        roots: the DAGs that it starts with.
    """
    wanted = {"key": key, "roots": sorted(roots), "began": datetime.now(UTC).isoformat(timespec="seconds")}
    number = 1
    while True:
        night = Night(store, f"{date}.{number}")
        if night.put("night", wanted) or night.get("night", {}).get("key") == key:
            return night
        number += 1


def drop(store: Store, name: str) -> None:
    """Give a night's number back: nothing of it has begun."""
    store.delete(f"nights/{name}/night.json")


def join(
    store: Store, dag: str, run: str, about: Mapping[str, Any], events: Iterable[Mapping[str, Any]]
) -> list[Night]:
    """The nights that a run belongs to: those that its events hand on, else the one of its own key.

    More than one where the events of several nights started one run: each of them waits for it.

    Args:
        about: ``date`` (the day on which the run was due) and ``after`` (each DAG of the graph, and the DAGs whose
            assets start it).
    """
    if handed := sorted({name for event in events for name in event.get("nights", [])}):
        return [Night(store, name) for name in handed]
    after = about["after"]
    roots = [name for name, before in after.items() if not before] if run.startswith(SCHEDULED) else [dag]
    return [claim(store, run, about["date"], roots)]


def told_by(runs: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """What params.yaml of a night's runs says."""
    return next((run[name] for run in runs.values() if name in run), DEFAULTS[name])


def missing(
    roots: Iterable[str],
    runs: Mapping[str, Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
    paused: Iterable[str] = (),
) -> list[str]:
    """The DAGs whose outcome the night still waits for.

    These are its roots, and the DAGs that their assets start: those of which each DAG that they follow belongs to this
    night and has recorded. A paused DAG is not waited for.
    """
    after = {dag: before for run in runs.values() for dag, before in run["after"].items()}
    recorded = {dag for dag, outcome in outcomes.items() if outcome["asset"]}
    expected = {*roots, *(dag for dag, before in after.items() if before and recorded.issuperset(before))}
    return sorted(expected - set(outcomes) - set(paused))


def names(store: Store) -> list[str]:
    """All nights, newest first."""
    found = {key.split("/")[1] for key in store.list("nights/")}
    return sorted(found, key=lambda name: (name.partition(".")[0], int(name.partition(".")[2])), reverse=True)


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **value}, indent=1, default=str).encode() + b"\n"
