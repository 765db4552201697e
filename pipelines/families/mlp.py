"""One hidden layer of 128; 101,770 parameters for 28×28×1 and 10 classes."""

from torch import nn


def build(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network for images of ``shape`` (height, width, channels).

    It takes float32 NCHW ``[batch, channels, height, width]`` and gives logits ``[batch, classes]``.
    """
    height, width, channels = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(height * width * channels, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )
