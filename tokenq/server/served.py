"""What endpoints answer with: the models by name, each with its engine, and what is known of them."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request

from tokenq.errors import nearest
from tokenq.jobs.reader import Reader
from tokenq.models.limits import ModelLimits
from tokenq.models.tokenizer import ends_of
from tokenq.server.engine.engine import Engine
from tokenq.server.errors import ApiError
from tokenq.server.settings import Settings
from tokenq.server.vocabulary import Vocabulary

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What is known of the models that an engine has at the moment.

    Attributes:
        reader: the pair.
        vocabulary: its tokens.
        ends: token ids that end a response.
        context: most tokens of prompt and response together; None for no limit.
        size: token ids that all of its models know.
    """

    reader: Reader
    vocabulary: Vocabulary
    ends: frozenset[int]
    context: int | None
    size: int

    @classmethod
    def of(cls, reader: Reader) -> "Facts":
        """Return what is known of a pair."""
        pair = reader.pair
        assert pair is not None  # an engine writes
        limits = [ModelLimits.of(lm.model) for lm in (pair.models.policy, pair.models.reference) if lm is not None]
        contexts = [one.context for one in limits if one.context is not None]
        ends = frozenset(ends_of(pair.models.policy, reader.tokenizer, ()))
        return cls(reader, Vocabulary(reader.tokenizer), ends, min(contexts, default=None), limits[0].tokens)

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self.reader.tokenizer

    def room(self, prompt: int, param: str) -> int | None:
        """Return how many tokens the context leaves behind a prompt; None for no limit.

        Args:
            prompt: its tokens.
            param: the field that it comes from.

        Raises:
            ApiError: the prompt alone is longer.
        """
        if self.context is None:
            return None
        if prompt > self.context:
            said = f"The prompt has {prompt} tokens, and the model's context is {self.context} tokens."
            raise ApiError(said, param=param, code="context_length_exceeded")
        return self.context - prompt


class Model:
    """A policy under a name.

    Args:
        name: by which requests ask for it.
        engine: writes and reads with it.
        parent: name of the model that it is an adapter on; None for none.
        root: the folder, or hub id, that it comes from.
    """

    def __init__(self, name: str, engine: Engine, parent: str | None = None, root: str | None = None) -> None:
        self.name, self.engine, self.parent, self._root = name, engine, parent, root
        self.created = int(time.time())
        self._facts = Facts.of(engine.reader)

    @property
    def facts(self) -> Facts:
        """What is known of its models, as they are now."""
        if self._facts.reader is not self.engine.reader:
            self._facts = Facts.of(self.engine.reader)
        return self._facts

    @property
    def root(self) -> str:
        """Where it comes from."""
        return self._root or str(self.facts.reader.identities[0]["path"])

    async def run(self, job: Callable[[Reader], T]) -> T:
        """Return what a job does with the models, between two steps of what is written."""
        return await asyncio.wrap_future(self.engine.run(job))


@dataclass
class Served:
    """What an application serves.

    Attributes:
        settings: what holds for all requests.
        models: by name, the policy first.
        engine_of: makes an engine for the models of an adapter.
        version: of its weights, as whoever published them has it; None where nobody has.
        going: set while requests are answered; they wait while models are exchanged.
        loading: held while weights are loaded.
        ending: adapters that go once their last request has ended.
    """

    settings: Settings
    models: dict[str, Model]
    engine_of: Callable[[Reader], Engine] = Engine
    version: str | None = None
    going: asyncio.Event = field(default_factory=asyncio.Event)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    ending: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def base(self) -> Model:
        """The policy, without further adapters."""
        return self.models[self.settings.name]

    async def model(self, name: str | None) -> Model:
        """Return the model of a name; the policy when None. Waits while models are exchanged.

        Raises:
            ApiError: there is none.
        """
        await self.going.wait()
        found = self.base if name is None else self.models.get(name)
        if found is None:
            raise unknown_model(str(name), self.models)
        return found


def unknown_model(name: str, known: Iterable[str]) -> ApiError:
    """Return the error for a model that is not served."""
    names = list(known)
    close = nearest(name, names)
    guess = f" Did you mean {close!r}?" if close and len(names) > 1 else ""
    said = f"The model {name!r} does not exist.{guess} Served: {', '.join(names) or 'none'}."
    return ApiError(said, status=404, param="model", code="model_not_found")


def _served(request: Request) -> Served:
    return cast(Served, request.app.state.served)


Serving = Annotated[Served, Depends(_served)]
"""What an endpoint takes to be told what is served."""
