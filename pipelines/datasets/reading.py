"""What all readers share."""

import difflib
from typing import Any

SPLITS = ("train", "test")


class Unreadable(Exception):
    """A record or a whole file that goes to quarantine; the message is the reason and names the column."""


def check_label(label: Any, split: Any, labels: list[str]) -> None:
    """Refuses a label that is none of the data set's and a split that there is not.

    Raises:
        Unreadable: names the nearest label.
    """
    if label not in labels:
        near = difflib.get_close_matches(str(label), labels, n=1)
        hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(labels[:20])})"
        raise Unreadable(f"label: {label!r} is none of the data set's labels{hint}")
    if split not in SPLITS:
        raise Unreadable(f"split: {split!r} is neither train nor test")
