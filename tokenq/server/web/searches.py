"""Searches for the app: their trees are told while they grow, and they are stopped with what they have."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tokenq.data.encoding import piece_of
from tokenq.errors import UserError, unknown_name
from tokenq.records.results import Cost, SearchResult
from tokenq.server.served import Model
from tokenq.server.web.asked import Searching
from tokenq.server.web.growing import GrowingTree, WatchedStepper
from tokenq.server.web.records import Session
from tokenq.server.web.runs import Event, Start, prompts_behind, said
from tokenq.server.web.view import searching_view

LOOK = 0.3
"""Seconds between two looks at a search that runs."""

DRAWN = 4000
"""Nodes beyond which a tree that grows is not drawn anew any more, but only counted; its end is drawn whole."""

METHODS: dict[str, tuple[str, ...]] = {
    "beam": ("width", "objective"),
    "best_of_n": ("n", "temperature", "ranking", "seed"),
    "mcts": ("simulations", "children", "objective", "seed"),
    "chunk_beam": ("width", "chunk_samples", "chunk_length", "seed"),
    "lookahead": ("width", "lookahead_top_k"),
    "beam_sample": ("width", "temperature", "seed"),
    "sample": ("n", "temperature", "seed"),
    "greedy": (),
}
"""Methods that the page offers, with the settings that it asks for; what is none of these is refused, since there are
settings of a search that name files and code."""

ALWAYS = ("max_new_tokens", "budget")
"""Settings of all methods."""


@dataclass
class Search:
    """One search, behind one beginning.

    Attributes:
        model: searches.
        session: to whose prompt.
        asked: how.
        start: where it begins.
        tree: what it has looked at.
    """

    model: Model
    session: Session
    asked: Searching
    start: Start
    tree: GrowingTree = field(default_factory=GrowingTree)

    def begin(self) -> None:
        """Ask the engine.

        Raises:
            UserError: a setting is none that the page offers.
        """
        allowed = (*METHODS[self.asked.method], *ALWAYS)
        if odd := [name for name in self.asked.settings if name not in allowed]:
            raise unknown_name(f"setting of {self.asked.method} here", odd[0], allowed)
        settings = {"method": self.asked.method, **self.asked.settings}
        prompts = prompts_behind(self.model.engine.reader, self.session, self.start)
        self._running = self.model.engine.search(
            prompts, settings, watch=lambda stepper: WatchedStepper(stepper, self.tree)
        )

    def cancel(self) -> None:
        """End it with what it has."""
        self._running.cancel()

    async def work(self, tell: Callable[[Event], None]) -> None:
        """Tell the tree as it grows, and at the end what was found."""
        tell(("start", {"ids": self.start.ids, "parent": self.start.parent, "at": self.start.at}))
        found, seen = self._running.future, 0
        text = self._texts()
        while not found.done():
            await asyncio.sleep(LOOK)
            if len(self.tree) > seen and not found.done():
                seen = len(self.tree)
                tell(("growing", {"looked": seen - 1, "result": self._now(text) if seen <= DRAWN else None}))
        try:
            (result,) = await asyncio.wrap_future(found)
        except (UserError, ValueError) as problem:
            tell(("error", {"message": said(problem)}))
        else:
            tell(("result", {"result": searching_view(result), "begun": self.start.ids}))

    def _now(self, text: Callable[[int, int], str]) -> dict[str, Any]:
        """Return the tree as it is, as a result without candidates."""
        nothing = Cost(len(self.tree), 0, 0, 0.0, 0)
        tree = self.tree.at_rest(text)
        return searching_view(SearchResult("1", "", self.asked.method, "", (), nothing, tree))

    def _texts(self) -> Callable[[int, int], str]:
        tokenizer = self.model.facts.tokenizer

        @cache
        def text(before: int, token: int) -> str:
            return piece_of(tokenizer, token, [] if before < 0 else [before])

        return text
