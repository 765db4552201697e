"""What the records of every data set have: ``datasets.<d>.records``. A reader's own keys stand beside it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipelines.params.section import Section, nearest

# Kinds of personal data that ingest looks for in texts.
LIKELY = ("e-mail address", "IBAN", "card number", "phone number", "IP address")
TAKEN = ("key", "label", "split", "group")


class Records(Section):
    """Each has one of a closed list of labels."""

    labels: Annotated[list[str], Field(min_length=2)]
    """In the order of the classes that models learn."""
    attributes: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Columns of the landed files that say of whom or from where a record is: the gate judges each of their values."""
    personal: dict[str, Literal["drop", "hash", "mask", "redact", "keep"]] = Field(default_factory=dict)
    """What ingest does to a column that holds personal data; ``keep``: it is known and meant to be there."""

    @field_validator("attributes")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if name in TAKEN or value.count(name) > 1:
                why = "ours" if name in TAKEN else "there twice"
                raise ValueError(f"{name} cannot be an attribute: it is {why}")
        return value

    def check_personal(self, texts: list[str]) -> None:
        """Raises ValueError where ``personal`` names what is none of the columns that hold text and are taken."""
        for name, how in self.personal.items():
            if how == "drop" and name in texts:
                raise ValueError(f"personal.{name} is dropped, and records asks for it too: take it out there")
            if how != "drop" and name not in texts:
                raise ValueError(f"personal.{name} is no column with texts that is taken{nearest(name, texts)}")
