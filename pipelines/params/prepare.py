"""How rows are split: ``datasets.<d>.prepare``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.params.section import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class Renewal(Section):
    """Fresh frozen rows, asked for with ``nightshift renew``."""

    from_: Annotated[str, Field(alias="from", pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """The first day whose rows belong to them, in quotes: DVC keeps dates as texts."""
    reason: Annotated[str, Field(min_length=1)]


class Frozen(Section):
    """The rows that no model is trained on, in three shares chosen by their keys: test has what the others leave.

    Every night looks at *test*, at *confirm* only after test passes, and *publish* is read only for the accuracy that
    is published.
    """

    share: Share | None = None
    """With ``split: hash``: the share of all rows that is frozen."""
    days: Annotated[int, Field(ge=1)] | None = None
    """With ``split: time``: how many days, by the calendar, the window has that ends with the newest."""
    confirm: Share
    publish: Share
    least: Annotated[int, Field(ge=1)]
    """Renewed rows judge once there are this many; until then the ones before go on. Also how many rows must be left
    to compare a champion that was trained on some of them."""
    renewed: list[Renewal]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confirm + self.publish >= 1:
            raise ValueError("confirm and publish together leave nothing for test")
        days = [renewal.from_ for renewal in self.renewed]
        if days != sorted(set(days)):
            raise ValueError("renewed must be in the order of their days, each day once")
        return self


class Prepare(Section):
    """Which rows are frozen.

    ``official``: those that the source marks. ``hash``: a row's key decides, for ever. ``time``: those of the newest
    days, which move on with every day that comes.
    """

    split: Literal["official", "hash", "time"]
    val: Share
    """Share of the training rows, chosen by their keys: a row that is in ``val`` once is there for ever."""
    frozen: Frozen

    @model_validator(mode="after")
    def _frozen_fits_split(self) -> Self:
        for key, split in (("share", "hash"), ("days", "time")):
            given = getattr(self.frozen, key) is not None
            if given != (self.split == split):
                raise ValueError(f"split: {self.split} {'takes no' if given else 'needs'} frozen.{key}")
        if self.split == "time" and self.frozen.renewed:
            raise ValueError(
                "split: time takes no frozen.renewed: its rows are fresh ones when the window has moved on"
            )
        return self
