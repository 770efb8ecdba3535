"""What is being written or searched for the app: told as it comes, stopped by name, kept when it has ended.

What was written is read and saved by the server itself, whether the window is still there or not: one that was closed
in the middle finds its branch in the session afterwards.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tokenq.data.encoding import Pieces
from tokenq.data.prompts import Prompt, given_prompts
from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.server.engine.request import Delivery, Generation, Token
from tokenq.server.served import Facts, Model
from tokenq.server.web.asked import Beginning, Writing
from tokenq.server.web.reading import Place, prompt_tokens, read_tokens
from tokenq.server.web.records import Session
from tokenq.server.web.store import Store, Unknown

ALTERNATIVES = 5
"""Alternatives that are shown while a response is written; when it is read, as many as every trace has."""

Event = tuple[str, Mapping[str, Any]]
"""Its name and its data."""


class Start(NamedTuple):
    """The tokens behind which something is written.

    Attributes:
        prompt_ids: of the prompt.
        ids: of the response so far.
        parent: the branch that it leaves.
        at: how many of its tokens are kept.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    parent: str | None
    at: int


@dataclass
class Runs:
    """What runs now.

    Attributes:
        cancels: how each run is stopped, by its name.
        tasks: what goes on when nobody listens any more.
    """

    cancels: dict[str, Callable[[], None]] = field(default_factory=dict)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def stop(self, name: str) -> bool:
        """Stop a run; False where it has ended."""
        cancel = self.cancels.get(name)
        if cancel is not None:
            cancel()
        return cancel is not None

    def told(
        self,
        name: str,
        cancel: Callable[[], None],
        work: Callable[[Callable[[Event], None]], Coroutine[Any, Any, None]],
    ) -> AsyncIterator[Event]:
        """Return what a run tells, as it comes; where nobody listens any more it is stopped, and ends what it began.

        It runs from now on: a client that goes before the first word leaves nothing behind that nobody stops.

        Args:
            name: of the run.
            cancel: stops it.
            work: does it, and is given a function that tells.
        """
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        async def done() -> None:
            try:
                await work(events.put_nowait)
            finally:
                self.cancels.pop(name, None)
                events.put_nowait(None)

        self.cancels[name] = cancel
        task = asyncio.create_task(done())
        self.tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self.tasks.discard)

        async def listened() -> AsyncIterator[Event]:
            try:
                while (event := await events.get()) is not None:
                    yield event
                await task
            finally:
                cancel()

        return listened()


def start_of(facts: Facts, session: Session, asked: Beginning) -> Start:
    """Return where something is to be written.

    Raises:
        Unknown: the session has no such branch.
        UserError: the branch has fewer tokens, or a token is none of the model's.
    """
    parent = None if asked.parent is None else session.branch(asked.parent)
    if asked.parent is not None and parent is None:
        raise Unknown(f"there is no branch {asked.parent!r} in session {session.id!r}")
    kept: tuple[int, ...]
    if parent is None:
        prompt, kept, at = prompt_tokens(facts.reader, session.prompt), (), 0
    else:
        if asked.at > len(parent.ids):
            raise UserError(f"Branch {parent.name!r} has {len(parent.ids)} tokens, not {asked.at}.", "Reload the page.")
        prompt, kept, at = parent.prompt_ids, parent.ids[: asked.at], asked.at
    ids = (*kept, *(asked.ids or ()), *(() if asked.token is None else (asked.token,)))
    if odd := [one for one in ids if one >= facts.size]:
        raise UserError(f"There is no token {odd[0]}: the models have {facts.size}.", "Reload the page.")
    return Start(prompt, ids, None if parent is None else parent.id, at)


@dataclass
class Writer:
    """Writes responses behind one beginning, and saves them.

    Attributes:
        model: writes.
        store: keeps.
        session: to which they belong.
        asked: what is asked for.
        start: where they begin.
    """

    model: Model
    store: Store
    session: Session
    asked: Writing
    start: Start
    _coming: "asyncio.Queue[Delivery]" = field(default_factory=asyncio.Queue)

    def begin(self) -> Callable[[], None]:
        """Ask the engine, and return what calls it off.

        Raises:
            Full: too many wait already.
            UserError: the models cannot write this.
        """
        loop, asked = asyncio.get_running_loop(), self.asked
        generation = Generation(
            prompt=(*self.start.prompt_ids, *self.start.ids),
            n=len(asked.branches),
            seed=asked.seed,
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
            eos=self.model.facts.ends,
            top_logprobs=ALTERNATIVES,
            rewards=True,
        )
        put = self._coming.put_nowait

        def deliver(one: Delivery) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(put, one)

        return self.model.engine.generate(generation, deliver).cancel

    async def work(self, tell: Callable[[Event], None]) -> None:
        """Tell tokens as they come; then read and save what was written."""
        start, count = self.start, len(self.asked.branches)
        tell(("start", {"ids": start.ids, "parent": start.parent, "at": start.at}))
        before = (*start.prompt_ids, *start.ids)
        pieces = [Pieces(self.model.facts.tokenizer, before) for _ in range(count)]
        written: list[list[int]] = [[] for _ in range(count)]
        while (one := await self._coming.get()) is not None:
            if isinstance(one, Token):
                written[one.choice].append(one.id)
                tell(("token", self._shown(one, pieces[one.choice].of(one.id))))
            elif isinstance(one, BaseException):
                tell(("error", {"message": said(one)}))
        for choice, ids in enumerate(written):
            await self._save(choice, ids, tell)

    def _shown(self, one: Token, text: str) -> dict[str, Any]:
        """Return a token as the page draws it while more are on their way."""
        facts, refs = self.model.facts, dict(one.ref_top)
        own, ref = one.logp, one.ref_logp
        shown = [(token, facts.vocabulary.shown(token), logp) for token, logp in one.top]
        return {
            **{"choice": one.choice, "id": one.id, "text": text, "logp": own, "ref_logp": ref, "finish": one.finish},
            "reward": None if ref is None else facts.reader.options.beta * (own - ref),
            "top": [[token, said.text, logp, refs.get(token), bytes(said.bytes).hex()] for token, said, logp in shown],
        }

    async def _save(self, choice: int, ids: Sequence[int], tell: Callable[[Event], None]) -> None:
        start, asked = self.start, self.asked
        if not ids:
            return
        name, title = asked.branches[choice], asked.names[min(choice, len(asked.names) - 1)]
        place = Place(name, start.parent, start.at, title, "written")
        whole = (*start.ids, *ids)
        try:
            branch = await self.model.run(
                lambda reader: read_tokens(reader, self.session.prompt, start.prompt_ids, whole, place)
            )
            await asyncio.to_thread(self.store.add_branch, self.session.id, branch)
        except (UserError, Unknown) as problem:
            tell(("error", {"message": said(problem), "choice": choice}))
        else:
            tell(("branch", {"choice": choice, "branch": branch.summary()}))


def said(problem: BaseException) -> str:
    """Return what went wrong, for people."""
    return f"{problem.message} {problem.hint}" if isinstance(problem, UserError) else str(problem) or repr(problem)


def prompts_behind(reader: Reader, session: Session, start: Start) -> list[Prompt]:
    """Return the prompt of a session with what is written already as the beginning of its response.

    Raises:
        UserError: the prompt's own tokens are others than those of the branch.
    """
    own = prompt_tokens(reader, session.prompt)
    whole = (*start.prompt_ids, *start.ids)
    if whole[: len(own)] != own:
        raise UserError(
            "The first token of this branch holds the end of the prompt, so that nothing can be searched behind it.",
            "Search from the prompt, or write a response here first.",
        )
    given = given_prompts(session.prompt, chat=reader.tokenizer.chat_template is not None)
    return [replace(given[0], begun=whole[len(own) :])]
