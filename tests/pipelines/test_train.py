"""Training: the same draws wherever it begins, the weights that the params ask for, a program of standard operators."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines import train
from pipelines.params.section import ParamsError
from pipelines.params.toolchain import accelerator
from pipelines.params.train import Train
from pipelines.tasks.image_classification import module, records
from pipelines.training import export
from pipelines.training.batches import Batches
from pipelines.training.fit import Data, fit
from tests.pipelines.models import LABELS, MODEL, SHAPE, checkout, make_model


def params(**changes: Any) -> Train:
    values = {
        "seed": 0,
        "epochs": 4,
        "batch_size": 8,
        "lr": 0.01,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "augment": ["crop", "flip"],
        "patience": None,
    }
    return Train.model_validate(values | changes)


# --- batches


def numbered(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 4, 4, 3), torch.arange(count)


def drawn(batches: Batches, epoch: int) -> list[Tensor]:
    batches.set_epoch(epoch)
    return [part for batch in batches for part in batch]


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + torch.randint(0, 50, x.shape, generator=generator, dtype=torch.uint8)


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    straight, resumed = (Batches(*numbered(50), 8, seed=3, augment=jitter) for _ in range(2))
    for epoch in range(3):
        expected = drawn(straight, epoch)
    torch.manual_seed(99)  # a new process has drawn other numbers
    found = drawn(resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_epochs_and_seeds_draw_differently() -> None:
    one, other = Batches(*numbered(50), 8, seed=3), Batches(*numbered(50), 8, seed=4)
    assert not torch.equal(drawn(one, 0)[1], drawn(one, 1)[1])
    assert not torch.equal(drawn(one, 0)[1], drawn(other, 0)[1])


def test_training_drops_the_last_small_batch_and_validation_counts_every_row() -> None:
    training, validation = Batches(*numbered(50), 8, seed=0), Batches(*numbered(50), 8)
    assert [len(y) for _, y in training] == [8] * 6 == [8] * len(training)
    assert torch.cat([y for _, y in validation]).tolist() == list(range(50))


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    assert [len(y) for _, y in Batches(*numbered(5), 8, seed=0)] == [5]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_every_batch_and_all_make_the_same_number_of_steps(count: int) -> None:
    whole = Batches(*numbered(50), 8, seed=3)
    shares = [Batches(*numbered(50), 8, seed=3, share=(number, count)) for number in range(count)]
    for step, parts in enumerate(zip(*shares, strict=True)):
        together = torch.cat([y for _, y in parts])
        assert sorted(together.tolist()) == sorted(list(whole)[step][1].tolist())
        assert {len(y) for _, y in parts} == {8 // count}
    validation = [list(Batches(*numbered(9), 8, share=(number, count))) for number in range(count)]
    assert {len(batches) for batches in validation} == {2}
    assert sorted(torch.cat([y for batches in validation for _, y in batches]).tolist()) == list(range(9))
    with pytest.raises(ValueError, match=f"1 rows cannot be shared by {count} processes"):
        Batches(*numbered(1), 8, seed=3, share=(0, count))


def test_processes_augment_differently() -> None:
    same_rows = torch.zeros((8, 4, 4, 3), dtype=torch.uint8), torch.zeros(8)
    one, other = (drawn(Batches(*same_rows, 8, seed=3, augment=jitter, share=(n, 2)), 0)[0] for n in (0, 1))
    assert not torch.equal(one, other)


# --- what training does to an image


def test_a_flip_shows_the_image_or_its_mirror_image() -> None:
    x = torch.randint(0, 256, (40, 6, 6, 3), dtype=torch.uint8)
    found = module.augment(x, ["flip"], torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(1)) for a, b in zip(found, x, strict=True)]
    assert all(torch.equal(a, b) or m for a, b, m in zip(found, x, mirrored, strict=True))
    assert 5 < sum(mirrored) < 35


def test_a_crop_moves_the_image_by_two_pixels_at_most_and_mirrors_its_rim() -> None:
    x = torch.randint(0, 256, (40, 6, 6, 3), dtype=torch.uint8)
    padded = np.pad(x.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    found = module.augment(x, ["crop"], torch.Generator().manual_seed(0)).numpy()
    moves = set()
    for image, around in zip(found, padded, strict=True):
        fits = [(r, c) for r in range(5) for c in range(5) if np.array_equal(image, around[r : r + 6, c : c + 6])]
        assert fits, "neither the image nor a shift of it"
        moves.update(fits)
    assert len(moves) > 15


def test_normalisation_is_that_of_the_training_rows() -> None:
    x = np.random.default_rng(0).integers(0, 200, (50, *SHAPE), np.uint8)
    x[..., 2] = 7
    classifier = module.Classifier(nn.Identity(), 3)
    module.fit_normalisation(classifier, x)
    assert classifier.mean.numpy() == pytest.approx(x.mean((0, 1, 2)), rel=1e-6)
    assert classifier.std.numpy()[:2] == pytest.approx(x.std((0, 1, 2))[:2], rel=1e-6)
    assert classifier.std[2] == 1, "a channel of one color must not be divided by zero"


# --- fit


class Killed(Exception):
    pass


def until(step: int) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The task's loss, that kills training at its ``step``-th use."""
    uses = iter(range(10**6))

    def loss(logits: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
        if next(uses) == step:
            raise Killed
        return module.loss(logits, y, label_smoothing)

    return loss


def learn(folder: Path, how: Train, loss: Any = module.loss) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    classifier = module.Classifier(network, 3)
    rng = np.random.default_rng(1)
    y = torch.from_numpy(rng.integers(0, 2, 60))
    x = torch.from_numpy(rng.integers(0, 100, (60, 4, 4, 3), np.uint8)) + (y * 60).to(torch.uint8)[:, None, None, None]
    data = Data(x[:40], y[:40], x[40:], y[40:])
    rows = fit(classifier, data, how, loss=loss, augment=module.augment, accelerator="cpu", checkpoints=folder)
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}, rows


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("patience", [None, 9])
def test_an_interrupted_training_ends_in_the_same_weights_also_with_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], patience: int | None
) -> None:
    how = params(patience=patience)
    whole, rows = learn(tmp_path / "whole", how)
    steps_of_two_epochs = 2 * (5 + 1)  # training steps and the one of validation
    with pytest.raises(Killed):
        learn(tmp_path / "broken", how, until(steps_of_two_epochs + 2))
    capsys.readouterr()
    resumed, resumed_rows = learn(tmp_path / "broken", how)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if "epoch" in line] == ["3/4", "4/4"]
    assert same(resumed, whole)
    assert resumed_rows == rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_on_another_disk_the_best_epoch_is_still_the_best(tmp_path: Path) -> None:
    how = params(epochs=12, lr=0.05, patience=9)
    whole, rows = learn(tmp_path / "whole", how)
    best = max(rows, key=lambda row: row["val/accuracy"])["epoch"]
    assert best < 10, "the best epoch has to lie before the kill"
    with pytest.raises(Killed):
        learn(tmp_path / "broken", how, until(int(best) * 6 + 2))
    (tmp_path / "another").mkdir()
    (tmp_path / "broken").rename(tmp_path / "another" / "disk")
    resumed, resumed_rows = learn(tmp_path / "another" / "disk", how)
    assert resumed_rows == rows
    assert same(resumed, whole)


def test_a_training_leaves_the_place_for_temporary_files_as_it_was(tmp_path: Path) -> None:
    before = os.environ.get("TMPDIR"), tempfile.gettempdir()
    learn(tmp_path / "a", params())
    assert (os.environ.get("TMPDIR"), tempfile.gettempdir()) == before


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert not same(learn(tmp_path / "a", params())[0], learn(tmp_path / "b", params(seed=1))[0])


def test_patience_stops_and_keeps_the_best_epoch_also_when_resumed_after_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = params(epochs=40, lr=0.05, patience=2)
    weights, rows = learn(tmp_path / "a", how)
    assert len(rows) < 40
    best = max(row["val/accuracy"] for row in rows)
    assert all(row["val/accuracy"] <= best for row in rows[-2:])
    capsys.readouterr()
    again, again_rows = learn(tmp_path / "a", how)  # killed after its last epoch, before the export
    assert "epoch" not in capsys.readouterr().out
    assert again_rows == rows
    assert same(again, weights)


# --- the exported program


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_model(folder, seed=0)
    return folder


def test_the_program_answers_what_the_weights_answer_for_any_number_of_images(made: Path) -> None:
    from pipelines.families import cnn

    classifier = module.module(cnn.build, SHAPE, LABELS)
    classifier.load_state_dict(load_file(made / "weights.safetensors"))
    session = onnxruntime.InferenceSession(made / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5, 300):
        x = np.random.default_rng(count).integers(0, 256, (count, *SHAPE), np.uint8)
        with torch.inference_mode():
            expected = module.Served(classifier)(torch.from_numpy(x)).numpy()
        (found,) = session.run(["probabilities"], {"image": x})
        assert found.shape == (count, 3)
        assert np.abs(found - expected).max() < 1e-5


def test_the_program_holds_nothing_of_the_machine_that_made_it(made: Path) -> None:
    data = (made / "model.onnx").read_bytes()
    assert b"/site-packages/" not in data
    assert b".py" not in data
    assert str(Path.cwd()).encode() not in data


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml"])
def test_a_program_with_operators_outside_the_standard_is_refused(domain: str) -> None:
    node = helper.make_node("Strange", ["x"], ["y"], domain=domain)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    opsets = [helper.make_opsetid("", export.OPSET)]
    program = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=opsets)
    with pytest.raises(ValueError, match=r"outside the standard: Strange"):
        export.check(program)
    program.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(ValueError, match=domain):
        export.check(program)


def test_a_program_of_another_opset_is_refused(made: Path) -> None:
    program = onnx.load(made / "model.onnx")
    program.opset_import[0].version = export.OPSET - 1
    with pytest.raises(ValueError, match=f"opset {export.OPSET}"):
        export.check(program)


# --- what is wrong is named


def test_a_misspelt_key_is_answered_with_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout(tmp_path / "checkout", epochz=3))
    with pytest.raises(ParamsError, match=rf"models\.{MODEL}\.train\.epochz is unknown; did you mean epochs\?"):
        train.main(MODEL)


def test_an_unknown_augmentation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout(tmp_path / "checkout", augment=["rotate"]))
    with pytest.raises(ParamsError, match=r"train\.augment\.0 is 'rotate'"):
        train.main(MODEL)


def test_another_version_of_torch_refuses_before_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout(tmp_path / "checkout")
    file = root / "params.yaml"
    file.write_text(file.read_text().replace(f"torch: {torch.__version__.partition('+')[0]}", "torch: 1.0.0"))
    monkeypatch.chdir(root)
    with pytest.raises(ParamsError, match=r"torch .* is installed and params.yaml's toolchain.torch is 1\.0\.0"):
        train.main(MODEL)
    assert not (root / "artifacts/models").exists()


def test_a_batch_that_the_processes_cannot_share_equally_is_refused() -> None:
    assert params(devices=2, num_nodes=2).devices == 2
    for wrong in ({"devices": 3}, {"devices": 2, "num_nodes": 3}):
        with pytest.raises(ValueError, match="rows of a batch are left over"):
            params(**wrong)


@pytest.mark.parametrize(
    ("gpus", "sentence"),
    [(0, "accelerator is gpu and this machine has none"), (1, r"devices is 2 and this machine has 1 GPU")],
)
def test_gpus_that_are_not_here_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, sentence: str
) -> None:
    monkeypatch.chdir(root := checkout(tmp_path / "checkout", devices=2))
    (root / "artifacts" / "datasets" / "cifar10" / "dataset.json").unlink()
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("accelerator: cpu", "accelerator: gpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ParamsError, match=sentence):
        train.main(MODEL)


def test_an_accelerator_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout(tmp_path / "checkout")
    file = root / "params.yaml"
    text = file.read_text()
    monkeypatch.chdir(root)
    file.write_text(text.replace("accelerator: cpu", "accelerator: gpu"))
    with pytest.raises(ParamsError, match="accelerator is gpu and this machine has none"):
        accelerator({"cpu": True, "gpu": False})
    assert accelerator({"cpu": True, "gpu": True}) == "gpu"
    file.write_text(text.replace("accelerator: cpu", "accelerator: gqu"))
    with pytest.raises(ParamsError, match=r"accelerator is 'gqu'; did you mean gpu\?"):
        accelerator({"cpu": True, "gpu": True})


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, *SHAPE), np.uint8))
    np.save(tmp_path / "y.npy", np.zeros(0, np.int64))
    (tmp_path / "keys.txt").write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path} has no rows"):
        records.load(tmp_path)


def test_a_torn_split_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, *SHAPE), np.uint8))
    np.save(tmp_path / "y.npy", np.zeros(2, np.int64))
    (tmp_path / "keys.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match="3 images, 2 labels and 3 keys"):
        records.load(tmp_path)
