"""The memory that a process holds of the system's."""

import contextlib
import ctypes


def give_back() -> None:
    """What is free in it. glibc keeps it otherwise: 317 MB instead of 150 after six swaps of a 90 MB model."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
