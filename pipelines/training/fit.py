"""Training with Lightning, from where the last attempt was stopped."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from pipelines.params.train import Train
from pipelines.training.batches import Batches
from pipelines.training.lightning import Checkpoint, Epochs, Loss, Patience, RandomState, Training

VAL_BATCH = 500


class Data(NamedTuple):
    """Two splits: inputs uint8, labels int64, one row each."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor


def fit(
    classifier: torch.nn.Module,
    data: Data,
    params: Train,
    *,
    loss: Loss,
    augment: Callable[[Tensor, Sequence[str], torch.Generator], Tensor],
    accelerator: str,
    checkpoints: Path,
) -> list[dict[str, float]] | None:
    """Trains ``classifier`` in place and gives one row of figures per epoch.

    Several processes (``params.devices``, ``params.num_nodes``) end with the same weights; Lightning starts those of
    this machine, which run the whole program. All but the first get None: what follows is not theirs.

    With patience the weights of the best epoch are kept, else the last ones. ``checkpoints`` is this training's own
    folder; what an attempt with the same inputs left there is gone on from.
    """
    change = partial(_augment, augment, params.augment) if params.augment else None
    epochs, best = Epochs(), Checkpoint(checkpoints, "best", "val/accuracy", mode="max")
    callbacks: list[Callback] = [RandomState(), epochs]
    if params.patience is not None:
        callbacks += [Patience(params.patience), best]
    # After the others, whose state it holds. Its own save_last would skip epochs that are not among the best.
    callbacks.append(Checkpoint(checkpoints, "last", enable_version_counter=False))
    trainer = pl.Trainer(
        max_epochs=params.epochs,
        accelerator=accelerator,
        devices=params.devices,
        num_nodes=params.num_nodes,
        strategy=params.strategy,
        deterministic=True,
        callbacks=callbacks,
        default_root_dir=checkpoints,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    share = (trainer.global_rank, trainer.world_size)
    batches = Batches(data.x, data.y, params.batch_size, seed=params.seed, augment=change, share=share)
    val_batches = Batches(data.val_x, data.val_y, VAL_BATCH, share=share)
    training = Training(classifier, loss, params, steps=len(batches) * params.epochs)
    prepares = trainer.local_rank == 0
    last = _last(checkpoints, params, prepares=prepares)
    with _temporary(checkpoints / "tmp", prepares=prepares):
        trainer.fit(training, batches, val_batches, ckpt_path=last, weights_only=True)
    if not trainer.is_global_zero:
        return None
    if params.patience is not None:
        training.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    classifier.cpu().eval()
    return epochs.rows


def _augment(how: Callable[..., Tensor], names: Sequence[str], x: Tensor, generator: torch.Generator) -> Tensor:
    return how(x, names, generator)


@contextmanager
def _temporary(folder: Path, *, prepares: bool) -> Iterator[None]:
    """Lightning writes a checkpoint into TMPDIR and moves it: only on one file system is that move atomic."""
    if prepares:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        variable, tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable


def _last(checkpoints: Path, params: Train, *, prepares: bool) -> str | None:
    """The checkpoint to go on from, if an attempt left one; one process of a machine makes the folder ready for more.

    Over several machines a training begins anew: only the first has checkpoints, and all must begin at one epoch.
    """
    last = checkpoints / "last.ckpt"
    if params.num_nodes > 1 or not last.exists():
        return None
    if prepares:
        print(f"going on from {last}", flush=True)
    return str(last)
