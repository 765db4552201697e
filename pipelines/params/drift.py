"""How far rows may lie from those before: part of ``datasets.<d>.validate`` and of ``models.<m>.gate``."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.params.section import Section


class Bounds(Section):
    """From where on a size warns, and from where on it refuses."""

    warn: Annotated[float, Field(gt=0)]
    stop: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.stop < self.warn:
            raise ValueError("stop is below warn: then nothing would ever warn")
        return self


class Drift(Bounds):
    """Levels of the population stability index (PSI), of labels and of what the rows look like.

    By custom 0.1 is a small shift and 0.25 a large one. It is a size, not a p-value: it does not grow with the rows.
    """

    min_rows: Annotated[int, Field(ge=1)]
    """With fewer training rows on either side nothing is asked: there the index is noise."""
