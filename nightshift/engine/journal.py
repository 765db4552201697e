"""A run's journal in S3: the base that ``begin`` fixes, and the fragments that its tasks add, all put create-only.

==========================  =============================================================
key under runs/<dag>/<run>  what
==========================  =============================================================
tree.tar.gz, base.json      the commit's tree with overrides, the plan; the base is put last
data/<dataset>.json         ingest's entries of the .dvc file
stages/<stage>.json         a stage's entry of dvc.lock
champions/<model>.json      pin's file
ingest/<dataset>.json       what ingest took and left, for people and for `accept`
record.json, outcome.json   the commit; what became of the deployment
==========================  =============================================================
"""

import json
import re
from typing import Any

from nightshift.engine.settings import setting
from nightshift.errors import NightshiftError
from nightshift.releases.store import Store, open_store

FORMAT = 1
FRAGMENTS = ("stages", "data", "champions")


def safe(name: str) -> str:
    """A DAG's or run's id with characters that keys, paths and Git's branch names allow."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


class Journal:
    """One run's journal."""

    def __init__(self, store: Store, dag: str, run: str):
        self.store = store
        self.dag = dag
        self.run = run
        self.prefix = f"runs/{safe(dag)}/{safe(run)}/"

    @classmethod
    def open(cls, dag: str, run: str) -> "Journal":
        """The journal in ``NIGHTSHIFT_WORK``."""
        return cls(open_store(setting("NIGHTSHIFT_WORK")), dag, run)

    def get(self, name: str) -> dict[str, Any] | None:
        """One object; None when it is not there."""
        try:
            return self._read(name, self.store.get(self.prefix + name))
        except KeyError:
            return None

    def put(self, name: str, value: dict[str, Any]) -> bool:
        """Put an object if there is none; False when there is one."""
        return bool(self.store.put_new(self.prefix + name, _dump(value)))

    def replace(self, name: str, value: dict[str, Any]) -> None:
        """Put an object over the one that is there: only for an outcome that is allowed to be tried again."""
        self.store.put(self.prefix + name, _dump(value))

    def base(self) -> dict[str, Any]:
        """What the run is based on.

        Raises:
            NightshiftError: the run has not begun, or its base belongs to a run of another name.
        """
        base = self.get("base.json")
        if base is None:
            raise NightshiftError(f"run {self.run} of {self.dag} has no base", "clear its task `begin`")
        self.check(base)
        return base

    def check(self, base: dict[str, Any]) -> None:
        """Two run ids may differ only in characters that keys do not have; that would mix two runs."""
        if (base["dag"], base["run"]) != (self.dag, self.run):
            raise NightshiftError(
                f"the journal {self.prefix} is that of run {base['run']!r}, not of {self.run!r}",
                "trigger the run again with another run id",
            )

    def fragments(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the run's tasks have put so far: ``stages``, ``data``, ``champions``, each by name."""
        found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in FRAGMENTS}
        for key in self.store.list(self.prefix):
            kind, _, file = key.removeprefix(self.prefix).partition("/")
            if kind in found and file.endswith(".json"):
                found[kind][file.removesuffix(".json")] = self._read(f"{kind}/{file}", self.store.get(key))
        return found

    def tree(self) -> bytes:
        """The run's tree as a gzipped tar archive: the commit's, with the run's overrides."""
        return self.store.get(self.prefix + "tree.tar.gz")

    def get_tree(self) -> bytes | None:
        """The tree; None when it is not there."""
        try:
            return self.tree()
        except KeyError:
            return None

    def put_tree(self, tree: bytes) -> bool:
        """Put the tree if there is none; False when there is one."""
        return bool(self.store.put_new(self.prefix + "tree.tar.gz", tree))

    def _read(self, name: str, content: bytes) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(content)
        if value.get("format") != FORMAT:
            raise NightshiftError(
                f"{self.prefix}{name} has format {value.get('format')!r}; this Nightshift reads {FORMAT}",
                "trigger the run again: it began under another version",
            )
        return value


def find(wanted: str | None) -> Journal:
    """The journal of a run by its id, as ``dag/run`` where several DAGs have it; without one, of the run begun last.

    Raises:
        NightshiftError: there is no such run, or more than one; names those that there are.
    """
    store = open_store(setting("NIGHTSHIFT_WORK"))
    dag, _, run = (wanted or "").rpartition("/")
    begun = store.written(f"runs/{safe(dag)}/" if dag else "runs/")
    known = [key.split("/")[1:3] for key in sorted(begun, key=lambda key: begun[key]) if key.endswith("/base.json")]
    found = [name for name in known if not wanted or name[1] == safe(run)]
    newest = [f"{dag}/{run}" for dag, run in known[:-6:-1]]
    if not found:
        where = f" of {dag}" if dag else ""
        words = f"{store.url} has no run {run}{where}" if wanted else f"no run has begun yet in {store.url}"
        raise NightshiftError(words, f"the newest: {', '.join(newest)}" if newest else "trigger one", exit_code=2)
    if wanted and len(found) > 1:
        names = ", ".join("/".join(name) for name in found)
        raise NightshiftError(f"{len(found)} DAGs have a run {run}", f"say which: {names}", exit_code=2)
    base = Journal(store, *found[-1]).get("base.json") or {}
    return Journal(store, base["dag"], base["run"])


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **value}, indent=1, default=str).encode() + b"\n"
