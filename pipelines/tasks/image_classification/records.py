"""The records of an image classification data set, as prepare leaves them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

INPUT, OUTPUT = "image", "probabilities"  # names of the program's tensors


class Rows(NamedTuple):
    """One split: images uint8 ``[n, height, width, channels]``, labels int64 ``[n]``, record keys in hex."""

    x: np.ndarray[Any, np.dtype[np.uint8]]
    y: np.ndarray[Any, np.dtype[np.int64]]
    keys: list[str]


def load(folder: Path) -> Rows:
    """The rows of one split.

    Raises:
        ValueError: the split is empty or its files are not of one length; the message names the folder.
    """
    x, y = np.load(folder / "x.npy", allow_pickle=False), np.load(folder / "y.npy", allow_pickle=False)
    keys = (folder / "keys.txt").read_text().split()
    if not len(x) == len(y) == len(keys):
        raise ValueError(f"{folder}: {len(x)} images, {len(y)} labels and {len(keys)} keys; run prepare again")
    if not len(x):
        raise ValueError(f"{folder} has no rows; land more data, or change the data set's prepare section")
    return Rows(x, y, keys)
