"""What served last, per model its release and order: a file beside the local copies, for a start without the ledger."""

import json
import logging
from pathlib import Path
from typing import Any

from nightshift.releases.store import whole_file

log = logging.getLogger("nightshift.serving")


class LastKnown:
    """``serving.json`` in the folder of local copies; what another registry's endpoint left there is not read."""

    def __init__(self, copies: Path, registry: str):
        self._file = copies / "serving.json"
        self._registry = registry

    def read(self) -> dict[str, dict[str, Any]]:
        """``{model: {"digest", "sequence"}}``; empty when nothing is known."""
        try:
            state = json.loads(self._file.read_text())
            return dict(state["models"]) if state["registry"] == self._registry else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def note(self, model: str, digest: str, sequence: int) -> None:
        """This release serves by the order of this number. Never raises: an endpoint whose disk is full goes on."""
        self._keep({**self.read(), model: {"digest": digest, "sequence": sequence}})

    def forget(self, model: str) -> None:
        """Nothing of it serves any more. Never raises."""
        models = self.read()
        if models.pop(model, None):
            self._keep(models)

    def _keep(self, models: dict[str, dict[str, Any]]) -> None:
        state = {"format": 1, "registry": self._registry, "models": models}
        try:
            with whole_file(self._file) as temporary:
                temporary.write_text(json.dumps(state, sort_keys=True, indent=2) + "\n")
        except OSError as error:
            log.warning("cannot remember what serves in %s: %s", self._file.parent, error)
