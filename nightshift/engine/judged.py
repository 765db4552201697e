"""What a run's gate said of its release."""

from typing import Any

from nightshift.engine.journal import Journal
from nightshift.engine.objects import Objects, made
from nightshift.engine.settings import home
from nightshift.errors import NightshiftError


class Judged:
    """The decision on one model of a run, and its release.

    Raises:
        NightshiftError: the run has no decision or no receipt, or an object is not what its name says.
    """

    def __init__(self, journal: Journal, base: dict[str, Any], model: str):
        self._hashes = made(journal.fragments()["stages"])
        self.objects = Objects(base["remote"], home() / "cache")
        self.decision: dict[str, Any] = self.objects.read_json(
            self.hash_of(f"artifacts/decisions/{model}/decision.json")
        )
        self.digest: str = self.objects.read_json(self.hash_of(f"artifacts/receipts/{model}.json"))["digest"]
        self._inconclusive = base["params"]["models"][model]["gate"].get("inconclusive")

    @property
    def promotes(self) -> bool:
        """Whether the decision lets the release serve, by the policy for inconclusive."""
        verdict = self.decision["verdict"]
        return bool(verdict == "pass" or (verdict == "inconclusive" and self._inconclusive == "promote"))

    def hash_of(self, path: str) -> str:
        """The hash of what a stage of this run made."""
        return _hash_of(self._hashes, path)


def report(of: str, name: str, dag: str, run: str) -> str:
    """The page of a run's decision on a model (``of`` is decisions) or of its validation of a data set (validations).

    Raises:
        NightshiftError: the run has none, or the object is not what its name says.
    """
    journal = Journal.open(dag, run)
    remote, hashes = journal.base()["remote"], made(journal.fragments()["stages"])
    return Objects(remote, home() / "cache").read(_hash_of(hashes, f"artifacts/{of}/{name}/report.html")).decode()


def _hash_of(hashes: dict[str, str], path: str) -> str:
    if path not in hashes:
        raise NightshiftError(f"this run has no {path}", "clear the task that makes it")
    return hashes[path]
