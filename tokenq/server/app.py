"""The application: every endpoint over one engine, with errors in one shape and a document of it that is true."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

import tokenq
from tokenq.jobs.reader import Reader
from tokenq.server.admin import router as admin
from tokenq.server.document import described
from tokenq.server.engine.engine import Engine
from tokenq.server.errors import add_handlers
from tokenq.server.health import router as health
from tokenq.server.openai.chat import router as chat
from tokenq.server.openai.completions import router as completions
from tokenq.server.openai.models import router as models
from tokenq.server.scoring.classify import router as classify
from tokenq.server.scoring.rerank import router as rerank
from tokenq.server.scoring.score import router as score
from tokenq.server.scoring.tokenize import router as tokenize
from tokenq.server.scoring.trace import router as trace
from tokenq.server.served import Model, Served
from tokenq.server.settings import Settings
from tokenq.server.web.router import web_router

ROUTERS = (health, models, completions, chat, trace, rerank, score, classify, tokenize, admin)
"""Every group of endpoints."""


def create_app(engine: Engine, settings: Settings, engine_of: Callable[[Reader], Engine] = Engine) -> FastAPI:
    """Return the application that answers with an engine.

    The engine is the caller's: whoever has made it closes it, behind the application's last answer.

    Args:
        engine: writes and reads.
        settings: what holds for all requests.
        engine_of: makes an engine for an adapter that is loaded while the server runs; the application closes it.
    """
    served = Served(settings, {settings.name: Model(settings.name, engine)}, engine_of)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        served.going.set()
        yield
        for model in served.models.values():
            if model.parent is not None:
                await run_in_threadpool(model.engine.close)

    app = FastAPI(
        title="tokenq",
        summary="A policy with its reference: text, log-probs, rewards and searches.",
        version=tokenq.__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages of FastAPI load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.served = served
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(web_router(served.base, settings.sessions, max_new_tokens=settings.max_new_tokens))
    app.openapi = described(app)  # type: ignore[method-assign]  # the way that FastAPI has for it
    return app
