"""One entry of ``datasets:``, whole. Ingest reads it; each stage reads its own section only."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator

from pipelines.params.prepare import Prepare
from pipelines.params.records import Records
from pipelines.params.section import ParamsError, Section, at, read
from pipelines.params.validate import Validate

R = TypeVar("R", bound=Records)
V = TypeVar("V", bound=Validate)


class Dataset(Section, Generic[R, V]):
    """Where a data set's files land, what they hold, and what is asked of them."""

    reader: str
    """The module in ``pipelines/datasets`` that reads the files; beside it are its ``_params`` and its ``_suite``."""
    landing: Annotated[str, Field(min_length=1)]
    """``s3://bucket/prefix`` or an absolute folder, with ``date=YYYY-MM-DD/`` below it."""
    freshness_days: Annotated[int, Field(ge=0)] | None
    """Ingest says so when the newest day is older than this; null: it never gets too old."""
    records: R
    validation: Annotated[V, Field(alias="validate")]  # pydantic has a deprecated method of that name
    prepare: Prepare

    @model_validator(mode="after")
    def _demands_suit_records(self) -> Self:
        self.validation.check_records(self.records)
        return self


def load(name: str, file: Path = Path("params.yaml")) -> Dataset[Any, Any]:
    """The data set of that name.

    Raises:
        ParamsError: the file, the entry or one of its keys is missing, unknown or of the wrong type.
    """
    return check(at(read(file), "datasets", name, file=file), f"datasets.{name}", file)


def check(entry: Any, where: str, file: Path) -> Dataset[Any, Any]:
    """An entry whose ``records`` and ``validate`` are those of its reader; ``where`` is its place, for messages."""
    reader = entry.get("reader") if isinstance(entry, dict) else None
    try:
        sections = import_module(f"pipelines.datasets.{reader}_params")
    except ModuleNotFoundError:
        raise ParamsError(f"{file}: {where}.reader is {reader!r}, and there is no such reader") from None
    kinds: Any = Dataset
    found: Dataset[Any, Any] = kinds[sections.Records, sections.Validate].check(entry, where, file)
    return found
