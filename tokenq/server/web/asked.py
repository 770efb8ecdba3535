"""What the app asks of its server: the bodies of its requests, each number with what it may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tokenq.server.web.records import Origin

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A name for machines, made by the app: a request that is sent twice does its work once."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
"""A name for people."""

TEXT = 1_000_000
"""Most characters of a prompt or a response; how many tokens the models read is another limit."""

TOKENS = 100_000
"""Most tokens of a response."""

Given = Annotated[str, StringConstraints(max_length=TEXT)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=TOKENS)]


class Asked(BaseModel):
    """A body; a field that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class NewSession(Asked):
    """A session to be made."""

    id: Id
    name: Name
    prompt: Given


class Change(Asked):
    """A new name, and for a branch whether it is deleted."""

    name: Name | None = None
    deleted: bool | None = None


class Preference(Asked):
    """Which of two branches is better."""

    better: Id
    worse: Id


class Beginning(Asked):
    """From where on something is written: behind the prompt, or behind a part of a branch and another token.

    Attributes:
        parent: a branch; None to begin at the prompt.
        at: how many tokens of the branch are kept.
        token: what is put behind them first.
        ids: tokens of a response that is nowhere else: what a server had written before it went away.
    """

    parent: Id | None = None
    at: int = Field(0, ge=0, le=TOKENS)
    token: int | None = Field(None, ge=0)
    ids: Ids | None = None


class NewBranch(Beginning):
    """A response to be read: its text, or the tokens behind its beginning."""

    id: Id
    name: Name
    text: Given | None = None
    origin: Origin = "pasted"


class Writing(Beginning):
    """Responses to be written; `run` is the name by which that is stopped."""

    run: Id
    branches: list[Id] = Field(min_length=1, max_length=64)
    names: list[Name] = Field(min_length=1, max_length=64)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(200, ge=1, le=TOKENS)
    seed: int | None = Field(None, ge=0, lt=2**63)


class Searching(Beginning):
    """A search to be made; settings are those of `tokenq search`."""

    run: Id
    method: Literal["greedy", "sample", "best_of_n", "beam", "beam_sample", "chunk_beam", "lookahead", "mcts"]
    settings: dict[str, Any] = Field(default_factory=dict, max_length=40)
