"""The models that serve now. Requests read one reference; a swap sets it, and what is under way ends on the old one."""

import random
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from nightshift.releases.manifest import short
from nightshift.serving import memory
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError, ask_again


@dataclass(frozen=True, slots=True)
class Served:
    """What answers for one model: its champion, and a canary for this share of the requests that name no version."""

    champion: LoadedModel
    canary: LoadedModel | None = None
    weight: float = 0.0

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        return (self.champion, self.canary) if self.canary else (self.champion,)


class Engine:
    """Thread-safe by construction: readers take one dictionary entry, one thread (the follower) writes."""

    def __init__(self) -> None:
        self._models: dict[str, Served] = {}
        self.is_complete = True  # False until who fills it has looked at all that there is
        self.tombstones: dict[str, dict[str, str]] = {}
        """Of each model what was retired, by digest ("" is the model itself), and the sentence for who asks."""

    def names(self) -> list[str]:
        return sorted(self._models)

    def serving(self, name: str) -> str | None:
        """The full digest of the champion that answers for this model, None when none does."""
        served = self._models.get(name)
        return served.champion.digest if served else None

    def index(self) -> list[dict[str, str]]:
        """What answers, in the words of the protocol's repository extension."""
        return [
            {"name": name, "version": model.version, "state": "READY", "reason": ""}
            for name, served in sorted(self._models.items())
            for model in served.loaded
        ]

    def served(self, name: str) -> Served | None:
        """All that answers for this model."""
        return self._models.get(name)

    def find(self, name: str, version: str | None) -> tuple[LoadedModel, str]:
        """The model that answers, and its role: champion, canary (by a coin of its weight) or pinned.

        ``version`` is the digest of anything that is loaded, or the digest's short form. RequestError 404, 410; 503 as
        long as nobody knows which models there are.
        """
        served = self._models.get(name)
        if served is not None:
            if version is None:
                # No secret hangs on this coin.
                if served.canary is not None and random.random() < served.weight:  # noqa: S311
                    return served.canary, "canary"
                return served.champion, "champion"
            for model in served.loaded:
                if version in (model.version, model.digest):
                    return model, "pinned"
        for digest, sentence in self.tombstones.get(name, {}).items():
            if not digest or version in (digest, short(digest)):
                raise RequestError(410, sentence)
        if served is None:
            if not self.is_complete:
                raise ask_again("nothing is loaded yet; ask again")
            raise RequestError(404, f"there is no model {name!r} here")
        versions = " and ".join(model.version for model in served.loaded)
        raise RequestError(404, f"model {name!r} has no version {version!r} here (it serves {versions})")

    def swap(self, new: LoadedModel) -> "list[weakref.ref[LoadedModel]]":
        """Let this be the champion from now on, and nothing be a canary beside it.

        Each reference dies when the last request on the model that answered before has ended.
        """
        old = self._models.get(new.name)
        self._models[new.name] = Served(new)
        return _references(old.champion, old.canary) if old else []

    def try_out(self, canary: LoadedModel, weight: float) -> "list[weakref.ref[LoadedModel]]":
        """Let this answer beside the champion, which there must be; the references are as those of ``swap``."""
        old = self._models[canary.name]
        self._models[canary.name] = Served(old.champion, canary, weight)
        return _references(old.canary)

    def end_canary(self, name: str) -> "list[weakref.ref[LoadedModel]]":
        """Let the champion answer alone again."""
        old = self._models.get(name)
        if old is None or old.canary is None:
            return []
        self._models[name] = Served(old.champion)
        return _references(old.canary)

    def stop(self, name: str) -> "list[weakref.ref[LoadedModel]]":
        """Let this model answer no more."""
        old = self._models.pop(name, None)
        return _references(old.champion, old.canary) if old else []


def _references(*models: LoadedModel | None) -> "list[weakref.ref[LoadedModel]]":
    return [weakref.ref(model) for model in models if model is not None]


def drop(old: "Sequence[weakref.ref[LoadedModel]]", patience_s: float) -> bool:
    """Wait until nobody uses these models any more and give their memory back; False when somebody still does."""
    until = time.monotonic() + patience_s
    while any(reference() is not None for reference in old):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    memory.give_back()
    return True
