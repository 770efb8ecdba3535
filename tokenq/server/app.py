"""The application: every endpoint over one engine, with errors in one shape and a document of it that is true."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import tokenq
from tokenq.server.engine.engine import Engine
from tokenq.server.errors import add_handlers
from tokenq.server.health import router as health
from tokenq.server.openai.chat import router as chat
from tokenq.server.openai.completions import router as completions
from tokenq.server.openai.models import router as models
from tokenq.server.scoring.trace import router as trace
from tokenq.server.served import Model, Served
from tokenq.server.settings import Settings

ROUTERS = (health, models, completions, chat, trace)
"""Every group of endpoints."""


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """Return the application that answers with an engine.

    The engine is the caller's: whoever has made it closes it, behind the application's last answer.

    Args:
        engine: writes and reads.
        settings: what holds for all requests.
    """
    served = Served(settings, {settings.name: Model(settings.name, engine)})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        served.going.set()
        yield

    app = FastAPI(
        title="tokenq",
        summary="A policy with its reference: text, log-probs, rewards and searches.",
        version=tokenq.__version__,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.served = served
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
