"""What a data set's records are: ``datasets.<d>.records``."""

from typing import Annotated

from pydantic import Field

from pipelines.params.section import Section


class Records(Section):
    """Images of one shape, each with one of a closed list of labels."""

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    """Height, width, channels (1 grey, 3 RGB)."""
    labels: Annotated[list[str], Field(min_length=2)]
    """In the order of the classes that models learn."""
