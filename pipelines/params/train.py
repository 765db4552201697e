"""``models.<model>.train``."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.section import Section


class Train(Section):
    """How a model is trained; every key decides its weights."""

    seed: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    """The highest learning rate of the one-cycle schedule."""
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augment: list[Literal["crop", "flip"]]
    patience: Annotated[int, Field(ge=1)] | None
    """Epochs without a better ``val/accuracy`` before training stops; None: the whole schedule."""
