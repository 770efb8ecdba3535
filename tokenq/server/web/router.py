"""The app's own endpoints: the page, its files, saved sessions, and what is written or searched for them.

They are the page's and not an interface for programs, so that the OpenAPI document does not list them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from tokenq.files import plain
from tokenq.server.errors import ApiError
from tokenq.server.served import Model
from tokenq.server.web.asked import Beginning, Change, Id, NewBranch, NewSession, Preference, Searching, Writing
from tokenq.server.web.desk import Desk
from tokenq.server.web.export import pair_lines, trace_lines
from tokenq.server.web.page import HEADERS, file_of, page_of
from tokenq.server.web.reading import Place, read_text, read_tokens
from tokenq.server.web.records import Branch, Session
from tokenq.server.web.runs import Event, Start, Writer, start_of
from tokenq.server.web.searches import Search
from tokenq.server.web.store import Store, Unknown
from tokenq.server.web.view import reading_view

BELOW = "/app"
"""Where the app's data are; the page and its files stand at / and /static."""


def web_router(model: Model, sessions: Path | None, *, max_new_tokens: int = 4096) -> APIRouter:
    """Return the endpoints of the app.

    Args:
        model: writes, reads and searches.
        sessions: file of saved sessions; None keeps them until the server ends.
        max_new_tokens: most tokens of a response.

    Raises:
        UserError: the file cannot be opened, or holds something else.
    """
    desk = Desk(model, Store(sessions), max_new_tokens)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.store.close()

    router = APIRouter(include_in_schema=False, lifespan=lifespan)
    _add_page(router)
    _add_sessions(router, desk)
    _add_branches(router, desk)
    _add_runs(router, desk)
    _add_files(router, desk)
    return router


def _add_page(router: APIRouter) -> None:
    @router.get("/")
    def page() -> Response:
        return HTMLResponse(page_of(), headers=HEADERS)

    @router.get("/static/{name}")
    def file(name: str) -> Response:
        found = file_of(name)
        if found is None:
            raise ApiError(f"There is no file {name!r}.", status=404)
        return Response(found.text, media_type=found.kind, headers=HEADERS)


def _add_sessions(router: APIRouter, desk: Desk) -> None:
    store = desk.store

    @router.get(f"{BELOW}/about")
    def about() -> Any:
        return desk.about()

    @router.get(f"{BELOW}/sessions")
    def sessions() -> Any:
        return store.sessions()

    @router.post(f"{BELOW}/sessions")
    def add(asked: NewSession) -> Any:
        return desk.shown(store.add(asked.id, asked.name, asked.prompt, desk.models))

    @router.get(f"{BELOW}/sessions/{{session}}")
    def session_of(session: Id) -> Any:
        return desk.shown(found(store, session))

    @router.patch(f"{BELOW}/sessions/{{session}}")
    def change(session: Id, asked: Change) -> Any:
        if asked.name is not None:
            _known(lambda: store.rename(session, asked.name or ""))
        return desk.shown(found(store, session))

    @router.delete(f"{BELOW}/sessions/{{session}}")
    def delete(session: Id) -> Any:
        _known(lambda: store.delete(session))
        return {"deleted": session}

    @router.put(f"{BELOW}/sessions/{{session}}/pairs")
    def prefer(session: Id, asked: Preference) -> Any:
        if asked.better == asked.worse:
            raise ApiError("A branch is not better than itself.")
        _known(lambda: store.prefer(session, asked.better, asked.worse))
        return desk.shown(found(store, session))

    @router.delete(f"{BELOW}/sessions/{{session}}/pairs")
    def forget(session: Id, one: Annotated[Id, Query()], other: Annotated[Id, Query()]) -> Any:
        _known(lambda: store.forget_pair(session, one, other))
        return desk.shown(found(store, session))


def _add_branches(router: APIRouter, desk: Desk) -> None:
    store, model = desk.store, desk.model

    @router.post(f"{BELOW}/sessions/{{session}}/branches")
    async def add(session: Id, asked: NewBranch) -> Any:
        own = found(store, session)
        if (kept := own.branch(asked.id)) is not None:  # asked for before, by somebody who did not get the answer
            return kept.summary()
        desk.refuse_others(own)
        branch = await _read(model, own, asked)
        await asyncio.to_thread(store.add_branch, session, branch)
        return branch.summary()

    @router.patch(f"{BELOW}/sessions/{{session}}/branches/{{branch}}")
    def change(session: Id, branch: Id, asked: Change) -> Any:
        if asked.name is not None:
            _known(lambda: store.rename_branch(session, branch, asked.name or ""))
        if asked.deleted is not None:
            _known(lambda: store.delete_branch(session, branch, deleted=bool(asked.deleted)))
        return desk.shown(found(store, session))

    @router.get(f"{BELOW}/sessions/{{session}}/reading")
    def reading(session: Id, branch: Annotated[list[Id], Query(min_length=1, max_length=2)]) -> Any:
        branches = []
        for name in branch:
            _known(lambda name=name: branches.append(store.branch(session, name)))
        return Response(json.dumps(reading_view(branches, desk.bytes_of)), media_type="application/json")


async def _read(model: Model, session: Session, asked: NewBranch) -> Branch:
    """Return a response as a branch, read by both models."""
    if (asked.text is None) == (asked.ids is None):
        raise ApiError("A branch is a text, or tokens.", param="text")
    if asked.text is not None:
        place, text = Place(asked.id, asked.parent, asked.at, asked.name, asked.origin), asked.text
        return await model.run(lambda reader: read_text(reader, session.prompt, text, place))

    start = await _start(model, session, asked)
    place = Place(asked.id, start.parent, start.at, asked.name, asked.origin)
    return await model.run(lambda reader: read_tokens(reader, session.prompt, start.prompt_ids, start.ids, place))


async def _start(model: Model, session: Session, asked: Beginning) -> Start:
    """Return where something begins, on the thread that owns the tokenizer."""
    return await model.run(lambda _: _known(lambda: start_of(model.facts, session, asked)))


def _add_runs(router: APIRouter, desk: Desk) -> None:
    store, model, runs = desk.store, desk.model, desk.runs

    @router.post(f"{BELOW}/sessions/{{session}}/write")
    async def write(session: Id, asked: Writing) -> Any:
        own = found(store, session)
        desk.refuse_others(own)
        desk.refuse_many(asked.max_new_tokens)
        start = await _start(model, own, asked)
        writer = Writer(model, store, own, asked, start)
        return _streamed(runs.told(asked.run, writer.begin(), writer.work))

    @router.post(f"{BELOW}/sessions/{{session}}/search")
    async def search(session: Id, asked: Searching) -> Any:
        own = found(store, session)
        desk.refuse_others(own)
        desk.refuse_many(asked.settings.get("max_new_tokens"))
        start = await _start(model, own, asked)
        searching = Search(model, own, asked, start)
        searching.begin()
        return _streamed(runs.told(asked.run, searching.cancel, searching.work))

    @router.post(f"{BELOW}/stop/{{run}}")
    async def stop(run: Id) -> Any:
        return {"stopped": runs.stop(run)}


def _add_files(router: APIRouter, desk: Desk) -> None:
    store = desk.store

    @router.get(f"{BELOW}/sessions/{{session}}/traces.jsonl")
    def traces(session: Id) -> Response:
        return _lines(b"".join(trace_lines(_known(lambda: store.traces(session)))))

    @router.get(f"{BELOW}/sessions/{{session}}/pairs.jsonl")
    def pairs(session: Id) -> Response:
        return _lines(b"".join(pair_lines([found(store, session)], chat=desk.chat)))

    @router.get(f"{BELOW}/pairs.jsonl")
    def all_pairs() -> Response:
        every = (found(store, one["id"]) for one in reversed(store.sessions()))
        return _lines(b"".join(pair_lines(every, chat=desk.chat)))


def _lines(content: bytes) -> Response:
    return Response(content, media_type="application/jsonl")


def found(store: Store, session: str) -> Session:
    """Return a session.

    Raises:
        ApiError: there is none of that name.
    """
    own: Session = _known(lambda: store.session(session))
    return own


def _known(ask: Any) -> Any:
    """Return what is asked for; what does not exist is an error of the request."""
    try:
        return ask()
    except Unknown as problem:
        raise ApiError(f"{str(problem).capitalize()}. It may have been deleted.", status=404) from problem


def _streamed(events: AsyncIterator[Event]) -> StreamingResponse:
    """Return events as a stream that browsers read line by line."""

    async def lines() -> AsyncIterator[bytes]:
        async for name, data in events:
            yield f"event: {name}\ndata: {json.dumps(plain(dict(data)))}\n\n".encode()
        yield b"event: done\ndata: {}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})
