"""Files that only their owner may read. The standard library only: secrets are made before anything is installed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def create_private(path: Path, text: str) -> bool:
    """Makes a file that only its owner may read; False, and nothing changed, when there is one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    write_private(temporary, text)
    try:
        os.link(temporary, path)  # the one call that both creates whole and refuses to overwrite
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def filled(new: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The kept secrets, with what a later version wants beside them."""
    inner = {name: filled(new[name], kept[name]) for name in kept if isinstance(new.get(name), dict)}
    return {**new, **kept, **inner}


def new_endpoint_key() -> str:
    """The endpoint's key for whoever deploys: an API key like those of `nightshift keys create`."""
    return f"nsk_{secrets.token_urlsafe(32)}"
