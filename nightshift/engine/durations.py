"""How long a stage took when it was last computed: one small object per stage, overwritten; for estimates only."""

import json

from nightshift.releases.store import Store


def note(store: Store, stage: str, seconds: float) -> None:
    """Keep the seconds that a computation took, fetching and pushing included."""
    store.put(_key(stage), json.dumps({"seconds": round(seconds, 1)}).encode())


def last(store: Store, stage: str) -> float | None:
    """Seconds; None when the stage was never computed here."""
    try:
        return float(json.loads(store.get(_key(stage)))["seconds"])
    except KeyError:
        return None


def _key(stage: str) -> str:
    return f"durations/{stage}.json"
