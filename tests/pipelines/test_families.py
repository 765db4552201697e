"""The networks are those of the textbook, and fit any image they are asked to take."""

import pytest
import torch

from pipelines.families import cnn, mlp


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_convolutional_network_has_the_textbook_size() -> None:
    assert parameters(cnn.build((32, 32, 3), 10)) == 167_562


def test_the_perceptron_has_the_textbook_size() -> None:
    assert parameters(mlp.build((28, 28, 1), 10)) == 101_770


@pytest.mark.parametrize("family", [cnn, mlp])
@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 47, 3)])
def test_a_family_takes_any_shape_and_number_of_classes(family: object, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    network = family.build(shape, 7)  # type: ignore[attr-defined]
    assert network(torch.zeros(2, channels, height, width)).shape == (2, 7)
