"""What the records of every data set have: ``datasets.<d>.records``. A reader's own keys stand beside it."""

from typing import Annotated

from pydantic import Field, field_validator

from pipelines.params.section import Section

TAKEN = ("key", "label", "split", "group")


class Records(Section):
    """Each has one of a closed list of labels."""

    labels: Annotated[list[str], Field(min_length=2)]
    """In the order of the classes that models learn."""
    attributes: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Columns of the landed files that say of whom or from where a record is: the gate judges each of their values."""

    @field_validator("attributes")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if name in TAKEN or value.count(name) > 1:
                why = "ours" if name in TAKEN else "there twice"
                raise ValueError(f"{name} cannot be an attribute: it is {why}")
        return value
