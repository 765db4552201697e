"""What a program costs, counted by hand; and images made worse, the same every night."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pipelines.families import cnn, mlp
from pipelines.programs.cost import cost
from pipelines.tasks.image_classification import module
from pipelines.tasks.image_classification.perturb import NOISE, PERTURBATIONS, SHIFT
from pipelines.training.export import export


def program(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], x: list, y: list) -> Path:
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT, dims, np.zeros(dims).ravel()) for name, dims in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_products_and_convolutions_are_counted_as_by_hand(tmp_path: Path) -> None:
    matmul = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    found = cost(program(tmp_path / "a.onnx", matmul, {"w": (7, 3)}, ["n", 7], ["n", 3]))
    assert (found["operations"], found["parameters"]) == (7 * 3, 21)
    assert found["bytes"] == (tmp_path / "a.onnx").stat().st_size
    # 8 filters of 3 x 3 over 4 channels in 2 groups, 10 x 10 out
    convolution = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=2)]
    found = cost(program(tmp_path / "b.onnx", convolution, {"w": (8, 2, 3, 3)}, ["n", 4, 10, 10], ["n", 8, 10, 10]))
    assert (found["operations"], found["parameters"]) == (10 * 10 * 8 * 2 * 9, 144)


@pytest.mark.parametrize(("family", "shape"), [(cnn, [32, 32, 3]), (mlp, [28, 28, 1])])
def test_an_exported_network_costs_what_torch_counts(family: object, shape: list[int], tmp_path: Path) -> None:
    served = module.Served(module.module(family.build, shape, ["a", "b", "c"])).eval()
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    export(served, example, ["image"], ["probabilities"], tmp_path / "model.onnx")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        served(example[:1])
    found = cost(tmp_path / "model.onnx")
    assert found["operations"] == counter.get_total_flops() / 2
    trained = sum(parameter.numel() for parameter in served.parameters())
    assert trained <= found["parameters"] <= trained + 100, "the normalisation's and the axes of reshapes"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbed_image_is_a_little_worse_and_always_the_same(name: str) -> None:
    x = np.random.default_rng(3).integers(0, 256, (5, 8, 9, 3), np.uint8)
    before = x.copy()
    worse = PERTURBATIONS[name](x)
    assert (worse.shape, worse.dtype) == (x.shape, x.dtype)
    assert np.array_equal(x, before)
    assert not np.array_equal(worse, x)
    assert np.array_equal(worse, PERTURBATIONS[name](x))
    flat = np.full((2, 6, 6, 1), 90, np.uint8)
    difference = np.abs(PERTURBATIONS[name](flat).astype(int) - 90).max()
    assert difference <= (NOISE if name == "noise" else 0)


def test_blur_is_the_mean_of_the_neighbours_and_shift_moves_right_and_down() -> None:
    x = np.zeros((1, 5, 5, 1), np.uint8)
    x[0, 2, 2] = 90
    assert PERTURBATIONS["blur"](x)[0, 1:4, 1:4, 0].tolist() == [[10] * 3] * 3
    moved = PERTURBATIONS["shift"](x)[0, :, :, 0]
    assert moved[2 + SHIFT, 2 + SHIFT] == 90
    assert moved.sum() == 90
