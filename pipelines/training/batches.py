"""The loader: whole batches of arrays that stay in memory."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Batches:
    """Batches of ``x`` uint8 NHWC and ``y`` int64, without collating and without workers.

    With a seed: shuffled, augmented, and the last, smaller batch dropped; order and augmentation are functions of
    (seed, epoch, step), so that an attempt that begins at epoch 7 draws what an undisturbed one draws there.
    Without: every row once, in order.

    ``share`` is (number, count) of the processes that train together: each takes every count-th row of every batch, so
    that all make the same number of steps. A share of validation's last batch may be empty.
    """

    batch_sampler = None  # Lightning looks for it beside ``sampler``

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        size: int,
        *,
        seed: int | None = None,
        augment: Augment | None = None,
        share: tuple[int, int] = (0, 1),
    ):
        self.x, self.y, self.size, self.seed, self.augment = x, y, min(size, len(x)), seed, augment
        self.number, self.count = share
        if seed is not None:
            self.size -= self.size % self.count
        if not self.size:
            raise ValueError(f"{len(x)} rows cannot be shared by {self.count} processes")
        self.epoch = 0

    @property
    def sampler(self) -> "Batches":
        """Lightning calls ``set_epoch`` of what stands here before every epoch, also of a resumed one."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.x) // self.size) if self.seed is None else len(self.x) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.x))
        if self.seed is not None:
            order = torch.randperm(len(self.x), generator=_generator(self.seed, self.epoch, 0))
        for step in range(len(self)):
            rows = order[step * self.size : (step + 1) * self.size][self.number :: self.count]
            x = self.x[rows]
            if self.seed is not None and self.augment is not None:
                mine = (self.number,) if self.count > 1 else ()
                x = self.augment(x, _generator(self.seed, self.epoch, step + 1, *mine))
            yield x, self.y[rows]


def _generator(*of: int) -> torch.Generator:
    """A generator whose stream is a function of these numbers; hashed, because neighboring seeds give alike streams."""
    digest = hashlib.sha256("/".join(map(str, of)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
