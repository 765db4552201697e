"""``models.<model>.train``."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

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
    devices: Annotated[int, Field(ge=1)] = 1
    """Processes of one machine, each with a GPU of its own or, on ``cpu``, a share of the cores."""
    num_nodes: Annotated[int, Field(ge=1)] = 1
    """Machines, each with that many processes."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    """Lightning's: how processes train one model together."""

    @field_validator("devices", "num_nodes")
    @classmethod
    def _equal_shares(cls, value: int, info: ValidationInfo) -> int:
        """A step is ``batch_size`` rows, whatever the number of processes; each takes the same share of them."""
        processes = value * info.data.get("devices", 1)
        if rows := info.data.get("batch_size", 0) % processes:
            raise ValueError(f"{rows} rows of a batch are left over when {processes} processes share batch_size")
        return value
