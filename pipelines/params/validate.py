"""What validation demands of every data set: ``datasets.<d>.validate``. A reader's own keys stand beside it."""

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
    """Share of a day's records that were there before."""
    drift: Drift
    """Of a day against all days before it."""
    min_label_share: Share
    """Of a day's training rows, for each label."""
