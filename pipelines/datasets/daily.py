"""What can be told of records, in the order of their days, from their keys and numbers alone."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def identities(keys: Array, labels: Array, train: Array) -> dict[str, Array]:
    """Which records were there before, have a key with two labels, or are trained on and in the test rows too.

    Args:
        keys: a number for each key, counted from 0 in the order in which keys first appear.
        labels: a number for each label.
        train: whether a record is a training row.
    """
    newest = np.maximum.accumulate(keys)
    first = np.concatenate([[True], keys[1:] > newest[:-1]])
    two, frozen = np.zeros((2, newest[-1] + 1), bool)
    two[keys[labels != labels[first][keys]]] = True
    frozen[keys[~train]] = True
    return {"repeated": ~first, "contradicted": two[keys], "leaked": train & frozen[keys]}
