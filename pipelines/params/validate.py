"""What validation demands: ``datasets.<d>.validate``."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.params.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class Drift(Section):
    """How far a day may lie from all days before it: the population stability index (PSI) of its labels and pixels.

    By custom 0.1 is a small shift and 0.25 a large one. It is a size, not a p-value: it does not grow with the rows.
    """

    warn: Annotated[float, Field(gt=0)]
    stop: Annotated[float, Field(gt=0)]
    min_rows: Annotated[int, Field(ge=1)]
    """Days with fewer training rows, or fewer before them, are not asked: there the index is noise."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.stop < self.warn:
            raise ValueError("stop is below warn: then nothing would ever warn")
        return self


class Validate(Section):
    """Each is asked of each day by itself, so that a long history cannot hide a bad one."""

    min_rows: Annotated[int, Field(ge=1)]
    max_quarantined: Share
    """Share of a day's records that ingest could not read."""
    max_repeated: Share
    """Share of a day's images that were there before."""
    drift: Drift
    min_label_share: Share
    """Of a day's training rows, for each label."""
    mean: Annotated[list[float], Field(min_length=2, max_length=2)]
    """Lowest and highest mean of an image's pixels, 0 to 255."""
    min_std: Annotated[float, Field(ge=0)]
    """Lowest standard deviation of an image's pixels: below it an image is blank."""
    max_outliers: Share
    """Share of a day's images that may lie outside ``mean`` and ``min_std``."""
