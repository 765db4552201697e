"""What validation demands of every data set: ``datasets.<d>.validate``. A reader's own keys stand beside it."""

from typing import Annotated, Any

from pydantic import Field

from pipelines.params.drift import Bounds, Drift
from pipelines.params.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class Validate(Section):
    """Each is asked of each day by itself, so that a long history cannot hide a bad one."""

    min_rows: Annotated[int, Field(ge=1)]
    max_quarantined: Share
    """Share of a day's records that ingest could not read."""
    max_repeated: Share
    """Share of a day's records that were there before."""
    drift: Drift
    """Of a day against all days before it."""
    min_label_share: Share
    """Of a day's training rows, for each label."""

    def check_records(self, records: Any) -> None:
        """Raises ValueError where what is demanded does not suit the records."""


class Outliers(Section):
    """Numbers far from those of the days before."""

    fence: Annotated[float, Field(gt=0)]
    """Interquartile ranges below the first or above the third quartile of all days before; by custom 3 is far."""
    max: Share
    """Share of a day's values that may lie beyond it; more warns."""


class Numbers(Validate):
    """Of records that are told by numbers, beside what every day must be."""

    distance: Bounds
    """How far a day's numbers may lie from those of all days before it: Wasserstein's distance, in standard deviations
    of those before. It says how much a number moved where the PSI only says that it did."""
    outliers: Outliers
