"""/health and /version: whether the server is ready, and which it is."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

import tokenq

router = APIRouter(tags=["server"])


class Health(BaseModel):
    """The server is ready."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """Which version of tokenq answers."""

    version: str


@router.get("/health")
async def health() -> Health:
    """Say that the server is ready."""
    return Health()


@router.get("/version")
async def version() -> Version:
    """Say which version of tokenq answers."""
    return Version(version=tokenq.__version__)
