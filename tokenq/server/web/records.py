"""What the app keeps: sessions, their branches, and which of two branches somebody found better."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Origin = Literal["pasted", "written", "search"]
"""How a branch came to be: its text was given, the policy wrote it token by token, a search found it."""

ORIGINS: tuple[Origin, ...] = ("pasted", "written", "search")


@dataclass(frozen=True)
class Branch:
    """One response of a session.

    Attributes:
        id: its name for machines, made by whoever asks for it.
        parent: the branch that it left; None where it begins at the prompt.
        at: how many of its tokens are those of its parent.
        name: its name for people.
        origin: how it came to be.
        prompt_ids: the tokens before it.
        ids: its tokens.
        text: its text, without the marks of a chat template.
        terminal: whether it ends in EOS.
        total: its implicit reward; None where no policy has read it.
        warnings: what may be wrong with its numbers.
        trace: what `tokenq score` says of it, as a line of JSON; empty in lists of branches.
    """

    id: str
    parent: str | None
    at: int
    name: str
    origin: Origin
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    terminal: bool
    total: float | None
    warnings: tuple[str, ...] = ()
    trace: str = ""

    def summary(self) -> dict[str, Any]:
        """Return the branch as the app lists it: no trace, and no tokens before it."""
        shown = {name: value for name, value in vars(self).items() if name not in ("prompt_ids", "trace")}
        return shown | {"ids": list(self.ids), "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Session:
    """A prompt, and the tree of responses to it.

    Attributes:
        id: its name for machines.
        name: its name for people.
        prompt: the text.
        models: identities of policy and reference, and β, with which its branches were read.
        created: seconds since 1970.
        changed: seconds since 1970.
        branches: oldest first, without traces.
        pairs: (better branch, worse branch), oldest first.
    """

    id: str
    name: str
    prompt: str
    models: Mapping[str, Any]
    created: float
    changed: float
    branches: tuple[Branch, ...] = ()
    pairs: tuple[tuple[str, str], ...] = field(default=())

    def branch(self, name: str) -> Branch | None:
        """Return a branch by its id, None where it has none of that name."""
        return next((one for one in self.branches if one.id == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the session as the app is given it."""
        nested = {"branches": [one.summary() for one in self.branches], "pairs": [list(pair) for pair in self.pairs]}
        return {**vars(self), **nested}
