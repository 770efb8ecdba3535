"""Other weights while the server runs: adapters under names of their own, and a folder in the policy's place.

The paths and bodies are vLLM's, so that whatever publishes weights to it publishes them here. An adapter is loaded
beside what runs and taken away once its last request has ended; the policy is exchanged when nothing runs.
"""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from tokenq.errors import UserError
from tokenq.server.asked import Asked
from tokenq.server.errors import ERRORS, ApiError, ErrorBody, of_user
from tokenq.server.served import Model, Served, Serving, unknown_model
from tokenq.server.weights import adapted, reloaded

router = APIRouter(tags=["weights"])

MOST = 8
"""Adapters that are loaded at a time."""

REFUSED: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    403: {"model": ErrorBody, "description": "It needs the admin key."},
}


class LoadAdapter(Asked):
    """An adapter to load."""

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    """By which requests ask for it."""
    lora_path: Annotated[str, Field(min_length=1)]
    """Folder of the adapter, on a disk of the server."""


class UnloadAdapter(Asked):
    """An adapter to take away."""

    lora_name: Annotated[str, Field(min_length=1)]


class ReloadArguments(Asked):
    """Which weights."""

    weights_path: Annotated[str, Field(min_length=1)]
    """Folder of a whole model, on a disk of the server."""


class Rpc(Asked):
    """A call of vLLM's workers, of which there is one kind here."""

    method: Literal["reload_weights"]
    kwargs: ReloadArguments


class WeightVersion(Asked):
    """What the weights are called."""

    new_version: Annotated[str, Field(min_length=1, max_length=200)]


class Status(BaseModel):
    """What has become of it."""

    status: str


class Results(BaseModel):
    """What the workers have returned."""

    results: list[None]


class NewVersion(BaseModel):
    """What the weights are called now."""

    version: str


@router.post("/v1/load_lora_adapter", responses=REFUSED)
async def load_lora_adapter(request: LoadAdapter, served: Serving) -> str:
    """Load an adapter on the policy, under a name of its own."""
    name, path = request.lora_name, request.lora_path
    async with served.loading:
        if name in served.models:
            raise ApiError(f"The name {name!r} is taken already.", param="lora_name", code="invalid_value")
        if len(served.models) > MOST:
            raise ApiError(f"{MOST} adapters are loaded already: unload one.", param="lora_name", code="invalid_value")
        base = served.base
        try:
            reader = await run_in_threadpool(adapted, base.engine.reader, path)
        except UserError as problem:
            raise of_user(problem, "lora_path") from None
        served.models[name] = Model(name, served.engine_of(reader), parent=base.name, root=path)
    return f"Success: LoRA adapter '{name}' added successfully."


@router.post("/v1/unload_lora_adapter", responses=REFUSED)
async def unload_lora_adapter(request: UnloadAdapter, served: Serving) -> str:
    """Take an adapter away: no request may ask for it any more, and those under way end first."""
    name = request.lora_name
    found = served.models.get(name)
    if found is None or found.parent is None:
        raise unknown_model(name, [one.name for one in served.models.values() if one.parent is not None])
    del served.models[name]
    served.ending.add(task := asyncio.create_task(_end(found)))
    task.add_done_callback(served.ending.discard)
    return f"Success: LoRA adapter '{name}' removed successfully."


async def _end(model: Model) -> None:
    """End the engine of an adapter behind its last request."""
    await run_in_threadpool(model.engine.drain)
    await run_in_threadpool(model.engine.close)


@router.post("/pause", responses=REFUSED)
async def pause(served: Serving, mode: Literal["keep"] = "keep") -> Status:
    """Let new requests wait; those under way go on."""
    served.going.clear()
    return Status(status="paused")


@router.post("/resume", responses=REFUSED)
async def resume(served: Serving) -> Status:
    """Answer requests again."""
    served.going.set()
    return Status(status="resumed")


@router.post("/collective_rpc", response_model=Results, responses=REFUSED)
async def collective_rpc(request: Rpc, served: Serving) -> Response:
    """Put the weights of a folder in the policy's place, once nothing runs."""
    async with served.loading:
        await _reload(served, request.kwargs.weights_path)
    return JSONResponse({"results": [None]})


async def _reload(served: Served, path: str) -> None:
    if adapters := [one.name for one in served.models.values() if one.parent is not None]:
        said = f"Adapters are loaded on the policy: {', '.join(adapters)}. Unload them first."
        raise ApiError(said, status=400, param="kwargs.weights_path", code="invalid_value")
    try:
        await asyncio.wrap_future(served.base.engine.reload(lambda reader: reloaded(reader, path)))
    except UserError as problem:
        raise of_user(problem, "kwargs.weights_path") from None


@router.post("/reset_prefix_cache", responses=REFUSED)
async def reset_prefix_cache() -> Status:
    """Do nothing: keys and values never outlive the weights that made them."""
    return Status(status="reset")


@router.post("/update_weight_version", responses=REFUSED)
async def update_weight_version(request: WeightVersion, served: Serving) -> NewVersion:
    """Say what the weights are called; answers have it as weight_version."""
    served.version = request.new_version
    return NewVersion(version=request.new_version)
