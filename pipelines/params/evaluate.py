"""``models.<model>.evaluate``."""

from typing import Annotated

from pydantic import Field

from pipelines.params.section import Section


class Evaluate(Section):
    """How a model is measured."""

    max_difference: Annotated[float, Field(gt=0, lt=1)]
    """The most by which a probability of the exported program may differ from that of the weights."""
    bins: Annotated[int, Field(ge=2, le=100)]
    """Equal bins of confidence, of the calibration plot and error."""
