"""Images as a worse camera gives them: what a model must not fall apart on. In whole numbers, the same everywhere."""

from typing import Any

import numpy as np

Images = np.ndarray[Any, np.dtype[np.uint8]]

NOISE = 24  # levels up or down, of 256
SHIFT = 2  # pixels


def noise(x: Images) -> Images:
    """Each pixel up to 24 levels brighter or darker; the same noise every night."""
    added = np.random.default_rng(0).integers(-NOISE, NOISE + 1, x.shape, np.int16)
    return np.clip(x + added, 0, 255).astype(np.uint8)


def blur(x: Images) -> Images:
    """Each pixel the mean of its 3 × 3 neighbours; the rim is repeated."""
    rows, columns = x.shape[1:3]
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.uint16)
    total = np.full(x.shape, 4, np.uint16)  # half of nine: it rounds
    for i, j in np.ndindex(3, 3):
        total += wide[:, i : i + rows, j : j + columns]
    return (total // 9).astype(np.uint8)


def shift(x: Images) -> Images:
    """Moved right and down by two pixels; the rim is repeated."""
    rows, columns = x.shape[1:3]
    return np.pad(x, ((0, 0), (SHIFT, 0), (SHIFT, 0), (0, 0)), mode="edge")[:, :rows, :columns]


PERTURBATIONS = {"noise": noise, "blur": blur, "shift": shift}
