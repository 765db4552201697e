"""What params.yaml says of a data set of texts: its ``records`` and what ``validate`` demands of them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.params import records, validate
from pipelines.params.validate import Share


class Records(records.Records):
    """Texts, in the landing files' columns ``text`` and ``label``, or a .txt file each in a folder per label."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_personal(["text", *self.attributes])
        if self.personal.get("text", "keep") not in ("redact", "keep"):
            raise ValueError("personal.text: redact what is personal in it, or keep it; nothing else leaves a text")
        return self

    @property
    def scanned(self) -> list[str]:
        """The columns in which nobody expects personal data, and which are looked through for it."""
        return [] if "text" in self.personal else ["text"]


class Validate(validate.Numbers):
    """Beside what every day must be."""

    length: Annotated[list[int], Field(min_length=2, max_length=2)]
    """Least and most characters of a text."""
    max_outside: Share
    """Share of a day's texts that may be shorter or longer."""
    max_faulty: Share
    """Share of a day's texts that may have faults of encoding: replacement or control characters, or mojibake, which is
    UTF-8 that was once read as another encoding."""
