"""``models.<model>.gate``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.params.drift import Drift
from pipelines.params.section import Section

Level = Annotated[float, Field(gt=0, lt=0.5)]


class ValueThreshold(Section):
    """Absolute bounds on the test rows, with or without a champion."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    ece: Annotated[float, Field(gt=0, le=1)] | None = None
    """The greatest expected calibration error; null: not asked."""


class ChangeThreshold(Section):
    """What challenger minus champion must be shown to exceed, on the same rows, in two looks."""

    bound: Annotated[float, Field(gt=-1, le=0)]
    """0: the challenger must be better; −0.005: no worse by more than half a point."""
    look_level: Level
    """One-sided, of the look at the test rows that decides whether the confirm rows are looked at."""
    level: Level
    """One-sided, of the look at both: how often, at most, a challenger that is no better passes in a night."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.look_level < self.level:
            raise ValueError("look_level is stricter than level: then the second look could never be what decides")
        return self


class Groups(Section):
    """Parts of the test rows on which the challenger must not be shown to be worse."""

    margin: Annotated[float, Field(ge=0, lt=1)]
    """The loss of accuracy that counts as none."""
    level: Level
    """One-sided, over all parts together (Holm)."""
    min_rows: Annotated[int, Field(ge=1)]
    """A part with fewer rows is named and not judged."""


class NewDays(Section):
    """How well the champion must know the labels of days that it has not seen, beside those of the test rows."""

    margin: Annotated[float, Field(ge=0, lt=1)]
    """The drop of accuracy that a day may bring: days differ."""
    level: Level
    """One-sided, over all new days together (Holm)."""
    min_rows: Annotated[int, Field(ge=1)]
    """A day with fewer ``val`` rows is named and not judged."""


class Cost(Section):
    """How many times the champion's cost a challenger may have; null: not asked."""

    operations: Annotated[float, Field(ge=1)] | None
    bytes: Annotated[float, Field(ge=1)] | None


class Gate(Section):
    """What a challenger must show before it serves."""

    value_threshold: ValueThreshold
    change_threshold: ChangeThreshold
    slices: Groups
    perturbations: Groups
    new_days: NewDays
    drift: Drift
    """Of what the challenger was trained on, and of each new day, against what the champion was trained on."""
    cost: Cost
    fresh_rows_after: Annotated[int, Field(ge=1)]
    """Looks at the same frozen rows after which fresh ones are due."""
    stale_after_days: Annotated[int, Field(ge=0)] | None = None
    """How many days the newest frozen row may lie before the newest training day; null: any."""
    stale: Literal["warn", "stop"] = "warn"
    """What frozen rows that are due or too old lead to: the decision says so, or no challenger passes."""
    inconclusive: Literal["keep", "promote"]
    """What an inconclusive verdict leads to: the champion is kept, or the challenger is promoted."""
