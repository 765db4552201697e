"""How a classifier learns, and what a checkpoint must hold beside Lightning's own."""
# ruff: noqa: ARG002  (Lightning's hooks have the arguments that they have)

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor

from pipelines.params.train import Train

Loss = Callable[[Tensor, Tensor, float], Tensor]
# Tips, devices that are not there and a deprecation inside Lightning itself would drown the lines of the epochs.
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec")
warnings.filterwarnings("ignore", message=".*sync_dist=True")  # what is logged here is of all processes already
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")

FIGURES = ("train/loss", "val/loss", "val/accuracy")


class Training(pl.LightningModule):
    """AdamW under one cycle of the learning rate over all ``steps``; batches are (inputs, labels)."""

    def __init__(self, classifier: torch.nn.Module, loss: Loss, params: Train, steps: int):
        super().__init__()
        self.classifier, self.loss, self.params, self.steps = classifier, loss, params, steps

    def on_train_epoch_start(self) -> None:
        self.train_loss = torch.zeros((), device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self.loss(self.classifier(batch[0]), batch[1], self.params.label_smoothing)
        self.train_loss += loss.detach()  # self.log() in every step costs more than a small network's step
        return loss

    def on_validation_epoch_start(self) -> None:
        self.rows, self.right = 0, torch.zeros((), dtype=torch.long, device=self.device)
        self.val_loss = torch.zeros((), device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        if not len(batch[1]):
            return  # another process has the rest of the last batch
        logits = self.classifier(batch[0])
        self.rows += len(batch[1])
        self.right += (logits.argmax(1) == batch[1]).sum()
        self.val_loss += self.loss(logits, batch[1], 0.0) * len(batch[1])

    def on_validation_epoch_end(self) -> None:
        over_all = self.trainer.strategy.reduce  # of one process: as it is
        rows = over_all(torch.tensor(self.rows, device=self.device), reduce_op="sum")
        steps = self.trainer.num_training_batches
        self.log("train/loss", over_all(self.train_loss, reduce_op="mean") / steps)
        self.log("val/loss", over_all(self.val_loss, reduce_op="sum") / rows)
        self.log("val/accuracy", over_all(self.right, reduce_op="sum") / rows)

    def configure_optimizers(self) -> Any:
        lr, decay = self.params.lr, self.params.weight_decay
        optimizer = torch.optim.AdamW(self.classifier.parameters(), lr, weight_decay=decay, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=self.steps, div_factor=10, final_div_factor=100, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class RandomState(Callback):
    """The generator that layers draw from (dropout); without it a resumed run draws other numbers."""

    state: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["torch"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.state is not None:
            torch.set_rng_state(self.state)


class Epochs(Callback):
    """One row of figures per epoch, printed as it comes and kept in the checkpoint."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figures = {name: round(float(trainer.callback_metrics[name]), 6) for name in FIGURES}
        epoch = trainer.current_epoch + 1
        self.rows.append({"epoch": epoch, **figures})
        if not trainer.is_global_zero:
            return
        print(
            f"epoch {epoch}/{trainer.max_epochs} "
            f"train/loss {figures['train/loss']:.3f} val/accuracy {figures['val/accuracy']:.3f}",
            flush=True,
        )


class Patience(EarlyStopping):
    """Early stopping that stays stopped: a run killed after its last epoch must not train one more when resumed."""

    def __init__(self, epochs: int):
        super().__init__("val/accuracy", mode="max", patience=epochs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class Checkpoint(ModelCheckpoint):
    """A checkpoint that knows its files also on another disk: Lightning notes absolute paths, and in a folder of
    another name it forgets which epoch was the best, and how good it was."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
