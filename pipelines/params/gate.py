"""``models.<model>.gate``."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.section import Section


class ValueThreshold(Section):
    """Absolute bounds, with or without a champion."""

    accuracy: Annotated[float, Field(ge=0, le=1)]


class ChangeThreshold(Section):
    """Bounds on challenger minus champion, on the same rows."""

    margin: Annotated[float, Field(gt=0, lt=1)]
    """The loss of accuracy that still counts as no worse."""
    level: Annotated[float, Field(gt=0, lt=0.5)]
    """One-sided: how often a challenger that is worse by the margin may pass."""


class Gate(Section):
    """What a challenger must show before it serves."""

    value_threshold: ValueThreshold
    change_threshold: ChangeThreshold
    inconclusive: Literal["keep", "promote"]
    """What an inconclusive verdict leads to: the champion is kept, or the challenger is promoted."""
