"""A checkout's signing key, ``.nightshift/signing.key`` (0600), and whose signatures its endpoints trust: the file
``trusted_keys``, which is in Git. Neither is there unless a person makes it: then nothing is signed, nothing demanded.

The standard library only: `make env` runs before anything is installed.
"""

from __future__ import annotations

import stat
from pathlib import Path

from nightshift.errors import NightshiftError

KEY, TRUSTED = Path(".nightshift", "signing.key"), "trusted_keys"


def private(root: Path) -> dict[str, str]:
    """What whoever deploys is told; nothing without a key.

    Raises:
        NightshiftError: others could read it.
    """
    file = root / KEY
    if not file.exists():
        return {}
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise NightshiftError(
            f"{file} can be read by others than its owner: it may sign for them already",
            f"chmod 600 {file}, or make another key and take this one out of {TRUSTED} (docs/signing.md)",
        )
    return {"NIGHTSHIFT_SIGNING_KEY": file.read_text().strip()}


def trusted(root: Path) -> dict[str, str]:
    """What the endpoints are told; nothing without the file.

    Raises:
        NightshiftError: it is there and has no line that could be a key, which must not look like its absence.
    """
    file = root / TRUSTED
    if not file.exists():
        return {}
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    keys = [line.split()[0] for line in lines if line]
    if not keys:
        raise NightshiftError(
            f"{file} names no key: no release could be trusted",
            "add the line of `nightshift signing-key show`, or remove the file to demand no signature",
        )
    return {"NIGHTSHIFT_TRUSTED_KEYS": ",".join(keys)}
