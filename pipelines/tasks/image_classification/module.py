"""The network between raw pixels and answers, its loss, and what training does to an image."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD = 2  # pixels by which a crop may move an image; four lose more than they teach at 32 × 32


class Classifier(nn.Module):
    """Raw images uint8 NHWC ``[batch, height, width, channels]`` in, logits ``[batch, classes]`` out.

    The normalisation is part of it, as buffers ``mean`` and ``std`` (0 to 255 units, per channel), so that whoever
    holds the weights holds the preprocessing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # Permuting NHWC gives a view that is NCHW in channels_last order: no copy.
        return self.network(((x.float() - self.mean) / self.std).permute(0, 3, 1, 2))


class Served(nn.Module):
    """What is exported: the same images in, probabilities float32 ``[batch, classes]`` out."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(image).softmax(1)


def module(
    build: Callable[[tuple[int, int, int], int], nn.Module], shape: Sequence[int], labels: Sequence[str]
) -> Classifier:
    """An untrained classifier of images of ``shape`` (height, width, channels) with the family's network."""
    height, width, channels = shape
    return Classifier(build((height, width, channels), len(labels)), channels)


def fit_normalisation(classifier: Classifier, x: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Sets mean and standard deviation to those of ``x``, from exact counts: no order of summation matters."""
    levels = np.arange(256, dtype=np.float64)
    for channel in range(x.shape[-1]):
        counts = np.bincount(x[..., channel].ravel(), minlength=256)
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        classifier.mean[channel] = mean
        classifier.std[channel] = max(variance**0.5, 1.0)  # a channel of one color is not blown up


def loss(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy, the mean over the batch."""
    return F.cross_entropy(logits, y, label_smoothing=label_smoothing)


def augment(x: Tensor, how: Sequence[str], generator: torch.Generator) -> Tensor:
    """A batch of images moved by up to two pixels (``crop``; the rim is mirrored) and mirrored at random (``flip``).

    ``x`` is uint8 ``[batch, height, width, channels]``; all randomness comes from ``generator``.
    """
    batch, height, width, _ = x.shape
    rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    if "flip" in how:
        flipped = torch.randint(0, 2, (batch, 1), generator=generator) == 1
        columns = torch.where(flipped, width - 1 - columns, columns)
    if "crop" in how:
        moves = torch.randint(-PAD, PAD + 1, (2, batch, 1), generator=generator)
        rows, columns = _mirror(rows + moves[0], height), _mirror(columns + moves[1], width)
    return x[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _mirror(index: Tensor, size: int) -> Tensor:
    """An index outside ``0 … size - 1`` as the one that a mirror at the rim shows."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)
