"""How rows are split: ``datasets.<d>.prepare``."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.params.section import Section


class Prepare(Section):
    """Test rows are those that the source marks so; ``val`` is taken from the others."""

    split: Literal["official"]
    val: Annotated[float, Field(gt=0, lt=1)]
    """Share of the training rows, chosen by their keys: a row that is in ``val`` once is there for ever."""
