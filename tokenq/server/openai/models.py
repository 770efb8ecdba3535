"""/v1/models: the policy, and the adapters that were loaded on it."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from tokenq.server.errors import ERRORS
from tokenq.server.served import Model, Serving

router = APIRouter(tags=["openai"])


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tokenq"
    root: str
    parent: str | None
    max_model_len: int | None


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def _card(model: Model) -> ModelCard:
    return ModelCard(
        id=model.name, created=model.created, root=model.root, parent=model.parent, max_model_len=model.facts.context
    )


@router.get("/v1/models")
async def models(served: Serving) -> ModelList:
    """List what is served: the policy first, then adapters."""
    return ModelList(data=[_card(one) for one in served.models.values()])


@router.get("/v1/models/{name:path}", responses={404: ERRORS[404]})
async def model(name: str, served: Serving) -> ModelCard:
    """Say what is known of a model."""
    return _card(await served.model(name))
