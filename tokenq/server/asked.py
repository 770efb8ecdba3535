"""What all requests share: an unknown field is refused by name with the nearest known one, and nothing is converted."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from tokenq.errors import nearest


class Asked(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        """Refuse the first field that is unknown: one that has no effect would be taken for one that has."""
        known = cls.model_fields
        odd = next((name for name in given if name not in known), None) if isinstance(given, dict) else None
        if odd is not None:
            name = str(odd).encode("utf-8", "replace").decode()
            close = nearest(name, known)
            told = {"name": name, "guess": f" Did you mean {close}?" if close else ""}
            raise PydanticCustomError("unknown", "It is not accepted, since it would have no effect.{guess}", told)
        return given


class OfModel(Asked):
    """A request that names a model."""

    model: str | None = None
    """Name of the model, as /v1/models lists it; the policy that is served when left out."""
