"""Where an endpoint finds its keys, and where it writes what it served."""

import os
from typing import Literal


def place(what: Literal["keys", "served"], registry: str) -> str | None:
    """The store's URL: NIGHTSHIFT_KEYS or NIGHTSHIFT_SERVED, else a folder beside a registry that is a folder.

    None for a bucket without that setting: nobody else's bucket is guessed.
    """
    set_ = os.environ.get(f"NIGHTSHIFT_{what.upper()}")
    return set_ or (None if "://" in registry else f"{registry.rstrip('/')}-{what}")
