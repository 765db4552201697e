"""The models that serve now. Requests read one reference; a swap sets it, and what is under way ends on the old one."""

import contextlib
import ctypes
import time
import weakref

from nightshift.releases.manifest import short
from nightshift.serving.model import LoadedModel
from nightshift.serving.tensors import RequestError


class Engine:
    """Thread-safe by construction: readers take one dictionary entry, one thread (the follower) writes."""

    def __init__(self) -> None:
        self._models: dict[str, LoadedModel] = {}
        self.tombstones: dict[str, dict[str, str]] = {}
        """Of each model what was retired, by digest ("" is the model itself), and the sentence for who asks."""

    def names(self) -> list[str]:
        return sorted(self._models)

    def serving(self, name: str) -> str | None:
        """The full digest that answers for this model, None when none does."""
        model = self._models.get(name)
        return model.digest if model else None

    def index(self) -> list[dict[str, str]]:
        """What answers, in the words of the protocol's repository extension."""
        return [
            {"name": name, "version": model.version, "state": "READY", "reason": ""}
            for name, model in sorted(self._models.items())
        ]

    def find(self, name: str, version: str | None) -> tuple[LoadedModel, str]:
        """The model that answers and its role; ``version`` is its digest or the digest's short form.

        Raises RequestError 404 and, of what was retired, 410.
        """
        model = self._models.get(name)
        if model is None or (version is not None and version not in (model.version, model.digest)):
            for digest, sentence in self.tombstones.get(name, {}).items():
                if not digest or version in (digest, short(digest)):
                    raise RequestError(410, sentence)
        if model is None:
            known = ", ".join(self.names()) or "none yet"
            raise RequestError(404, f"there is no model {name!r} here (models: {known})")
        if version is not None and version not in (model.version, model.digest):
            raise RequestError(404, f"model {name!r} has no version {version!r} here (it serves {model.version})")
        return model, "pinned" if version else "champion"

    def swap(self, new: LoadedModel) -> "weakref.ref[LoadedModel] | None":
        """Let this one answer from now on. The reference dies when the last request on the old one has ended."""
        old = self._models.get(new.name)
        self._models[new.name] = new
        return weakref.ref(old) if old else None

    def stop(self, name: str) -> "weakref.ref[LoadedModel] | None":
        """Let this model answer no more; the reference is as that of ``swap``."""
        old = self._models.pop(name, None)
        return weakref.ref(old) if old else None


def drop(old: "weakref.ref[LoadedModel]", patience_s: float) -> bool:
    """Wait until nobody uses the old model any more and give its memory back; False when somebody still does."""
    until = time.monotonic() + patience_s
    while old() is not None:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        # glibc keeps freed weights otherwise: 317 MB instead of 150 after six swaps of a 90 MB model.
        ctypes.CDLL(None).malloc_trim(0)
    return True
