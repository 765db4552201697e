"""What is remembered of requests that clients repeat, so that it is understood once: a bounded number of each kind."""

from typing import TypeVar

LONGEST = 4 << 10  # bytes of a form
FORMS = 256  # that are kept, of one model or of one process
SHAPES = 16  # of the answers to one form

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Beside what is known, or instead of it, when that is so much: who still asks is soon known again."""
    if len(known) >= most:
        known.clear()
    known[key] = value
