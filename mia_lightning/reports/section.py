"""What all sections of `report.json` are: typed, frozen, and without fields of other names."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @classmethod
    def of(cls, found: object) -> Self:
        """The section with the attributes of these names of an object that the run made."""
        return cls.model_validate(found, from_attributes=True)
