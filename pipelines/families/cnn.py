"""The textbook convolutional network: two convolutions, two dense; 167,562 parameters for 32×32×3 and 10 classes."""

from torch import nn


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network for images of ``shape`` (height, width, channels).

    It takes float32 NCHW ``[batch, channels, height, width]`` and gives logits ``[batch, classes]``.
    """
    height, width, channels = shape
    flat = 64 * (((height - 2) // 2 - 2) // 2) * (((width - 2) // 2 - 2) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
