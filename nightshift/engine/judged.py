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
        if path not in self._hashes:
            raise NightshiftError(f"this run has no {path}", "clear the task that makes it")
        return self._hashes[path]


def report(model: str, dag: str, run: str) -> str:
    """The page of a run's decision."""
    journal = Journal.open(dag, run)
    judged = Judged(journal, journal.base(), model)
    return judged.objects.read(judged.hash_of(f"artifacts/decisions/{model}/report.html")).decode()
