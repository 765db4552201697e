"""What params.yaml says of a table: its ``records`` and what ``validate`` demands of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.params import records, validate
from pipelines.params.section import Section, nearest
from pipelines.params.validate import Share

Kind = Literal["number", "category", "text", "date", "boolean"]
OURS = {"key", "label", "split", "source", "date", "personal"}  # columns of partitions and profiles


class Records(records.Records):
    """Rows of a table, one of whose columns is the label. What is not named in ``columns`` is never taken."""

    label: Annotated[str, Field(min_length=1)] = "label"
    """The landing files' column that holds the label."""
    key: Annotated[str, Field(min_length=1)] | None = None
    """The landing files' column that tells records apart; without it the record's content does."""
    columns: Annotated[dict[str, Kind], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if taken := sorted({*self.columns} & ({self.label} | OURS)):
            raise ValueError(f"columns.{taken[0]}: that name is taken; rename the column in the landing files")
        texts = [name for name, kind in self.columns.items() if kind in ("text", "category")]
        self.check_personal([*texts, *self.attributes, *([self.key] if self.key else [])])
        if self.key and self.personal.get(self.key, "keep") not in ("hash", "keep"):
            raise ValueError(f"personal.{self.key} is the key: it can be hashed or kept, else it tells nobody apart")
        return self

    @property
    def scanned(self) -> list[str]:
        """The columns in which nobody expects personal data, and which are looked through for it."""
        return [
            name for name, kind in self.columns.items() if kind in ("text", "category") and name not in self.personal
        ]


class Column(Section):
    """What one column's values may be."""

    max_missing: Share | None = None
    """Share of a day's values that may be missing; without it that of all columns."""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Lowest and highest number; of a text its number of characters."""
    values: Annotated[list[str], Field(min_length=1)] | None = None
    """Of a category: all that there are."""
    max_outside: Share = 0.0
    """Share of a day's values that may lie outside ``range`` or ``values``."""

    @property
    def wanted(self) -> str:
        """What values must be, in words; empty where anything will do."""
        if self.range:
            return f"within {self.range[0]:g} and {self.range[1]:g}"
        return f"one of {', '.join(self.values[:20])}" if self.values else ""


class Validate(validate.Numbers):
    """Beside what every day must be."""

    max_missing: Share
    """Share of a day's values that may be missing, in each column."""
    columns: dict[str, Column] = Field(default_factory=dict)

    def of(self, name: str) -> tuple[Column, float]:
        """What is demanded of a column, and the share of a day's values that may be missing."""
        column = self.columns.get(name, Column())
        return column, self.max_missing if column.max_missing is None else column.max_missing

    def check_records(self, records: Any) -> None:
        """Refuses demands of a column that the records have not, or that are of another kind's."""
        for name, column in self.columns.items():
            kind = records.columns.get(name)
            if kind is None:
                hint = nearest(name, list(records.columns))
                raise ValueError(f"validate.columns.{name} is none of records.columns{hint}")
            if column.range and kind not in ("number", "text"):
                raise ValueError(f"validate.columns.{name}: a {kind} has no range")
            if column.values and kind != "category":
                raise ValueError(f"validate.columns.{name}: a {kind} has no list of values")
