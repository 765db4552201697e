"""What params.yaml says of a data set of images: its ``records`` and what ``validate`` demands of them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipelines.params import records, validate
from pipelines.params.validate import Share


class Records(records.Records):
    """Images of one shape."""

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    """Height, width, channels (1 grey, 3 RGB)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_personal(self.attributes)
        return self


class Validate(validate.Validate):
    """Beside what every day must be."""

    mean: Annotated[list[float], Field(min_length=2, max_length=2)]
    """Lowest and highest mean of an image's pixels, 0 to 255."""
    min_std: Annotated[float, Field(ge=0)]
    """Lowest standard deviation of an image's pixels: below it an image is blank."""
    max_outliers: Share
    """Share of a day's images that may lie outside ``mean`` and ``min_std``."""
