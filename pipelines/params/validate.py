"""What validation demands: ``datasets.<d>.validate``."""

from typing import Annotated

from pydantic import Field

from pipelines.params.drift import Drift
from pipelines.params.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class Validate(Section):
    """Each is asked of each day by itself, so that a long history cannot hide a bad one."""

    min_rows: Annotated[int, Field(ge=1)]
    max_quarantined: Share
    """Share of a day's records that ingest could not read."""
    max_repeated: Share
    """Share of a day's images that were there before."""
    drift: Drift
    """Of a day against all days before it."""
    min_label_share: Share
    """Of a day's training rows, for each label."""
    mean: Annotated[list[float], Field(min_length=2, max_length=2)]
    """Lowest and highest mean of an image's pixels, 0 to 255."""
    min_std: Annotated[float, Field(ge=0)]
    """Lowest standard deviation of an image's pixels: below it an image is blank."""
    max_outliers: Share
    """Share of a day's images that may lie outside ``mean`` and ``min_std``."""
