"""What the records of every data set have: ``datasets.<d>.records``. A reader's own keys stand beside it."""

from typing import Annotated

from pydantic import Field

from pipelines.params.section import Section


class Records(Section):
    """Each has one of a closed list of labels."""

    labels: Annotated[list[str], Field(min_length=2)]
    """In the order of the classes that models learn."""
