"""Whom the nights are told to: two secret URLs, given once to ``up`` and kept in ``.nightshift/notify.json`` (0600).

``NIGHTSHIFT_NOTIFY_URL`` is apprise's (mail, chat, pager); ``NIGHTSHIFT_HEARTBEAT_URL`` is called after each night.
Empty means off.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from nightshift.errors import NightshiftError
from nightshift.stack.private import write_private

VARIABLES = ("NIGHTSHIFT_NOTIFY_URL", "NIGHTSHIFT_HEARTBEAT_URL")


def environment(home: Path) -> dict[str, str]:
    """The variables that are set.

    Raises:
        NightshiftError: the file is not a JSON object of these variables.
    """
    file = home / "notify.json"
    try:
        kept = json.loads(file.read_text()) if file.exists() else {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or set(kept) - set(VARIABLES) or any(not isinstance(v, str) for v in kept.values()):
        raise NightshiftError(
            f"{file} is not what it should be", f"write one JSON object in it, with the keys {' and '.join(VARIABLES)}"
        )
    return {name: url for name, url in kept.items() if url}


def keep(home: Path, environ: Mapping[str, str]) -> None:
    """Take what ``environ`` has; what it does not name stays as it was."""
    kept = environment(home)
    wanted = kept | {name: environ[name] for name in VARIABLES if name in environ}
    if wanted != kept:
        write_private(home / "notify.json", json.dumps(wanted, indent=1))
