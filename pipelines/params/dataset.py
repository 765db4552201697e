"""One entry of ``datasets:``, whole. Ingest reads it; each stage reads its own section only."""

from typing import Annotated

from pydantic import Field

from pipelines.params.prepare import Prepare
from pipelines.params.records import Records
from pipelines.params.section import Section
from pipelines.params.validate import Validate


class Dataset(Section):
    """Where a data set's files land, what they hold, and what is asked of them."""

    reader: str
    """The module in ``pipelines/datasets`` that reads the files."""
    landing: Annotated[str, Field(min_length=1)]
    """``s3://bucket/prefix`` or an absolute folder, with ``date=YYYY-MM-DD/`` below it."""
    freshness_days: Annotated[int, Field(ge=0)] | None
    """Ingest says so when the newest day is older than this; null: it never gets too old."""
    records: Records
    validation: Annotated[Validate, Field(alias="validate")]  # pydantic has a deprecated method of that name
    prepare: Prepare
