"""What all endpoints of the app work with: the engine, the sessions, and what runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenq.server.errors import ApiError
from tokenq.server.served import Model
from tokenq.server.web.records import Session
from tokenq.server.web.runs import Runs
from tokenq.server.web.searches import METHODS
from tokenq.server.web.store import Store
from tokenq.server.web.view import blank_index


@dataclass
class Desk:
    """The app of one server.

    Attributes:
        model: writes, reads and searches.
        store: keeps sessions.
        max_new_tokens: most tokens of a response.
        runs: what runs.
    """

    model: Model
    store: Store
    max_new_tokens: int = 4096
    runs: Runs = field(default_factory=Runs)

    @property
    def models(self) -> dict[str, Any]:
        """Identities of policy and reference, and β: what the numbers of a session belong to."""
        policy, reference = self.model.facts.reader.identities
        return {"policy": policy, "reference": reference, "beta": self.model.facts.reader.options.beta}

    @property
    def chat(self) -> bool:
        """Whether a prompt is a user's turn."""
        return self.model.facts.tokenizer.chat_template is not None

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token stands for."""
        return bytes(self.model.facts.vocabulary.shown(token).bytes)

    def about(self) -> dict[str, Any]:
        """Return what the page is told of the server before it shows anything."""
        reader = self.model.facts.reader
        judges = () if reader.rewards is None else (dict(reader.rewards.identity),)
        policy, reference = reader.identities
        return {
            "index": blank_index(judges, reader.options.levels),
            "policy": str(policy.get("path", "")),
            "reference": str(reference.get("path", "")),
            "beta": reader.options.beta,
            "chat": self.chat,
            "max_new_tokens": self.max_new_tokens,
            "methods": {name: list(settings) for name, settings in METHODS.items()},
            "kept": None if self.store.path is None else str(self.store.path),
        }

    def shown(self, session: Session) -> dict[str, Any]:
        """Return a session as the page is given it; `other_models` says whether it was read by others than these."""
        return {**session.to_dict(), "other_models": not self.same_models(session)}

    def same_models(self, session: Session) -> bool:
        """Return whether a session was read by the models that are here."""
        return bool(_plain(session.models) == _plain(self.models))

    def refuse_many(self, tokens: Any) -> None:
        """Refuse more tokens than the server writes.

        Raises:
            ApiError: it is no whole number, or too large a one.
        """
        if tokens is not None and (not isinstance(tokens, int) or tokens > self.max_new_tokens):
            said = f"{tokens} is not a number of tokens up to the {self.max_new_tokens} that this server writes."
            raise ApiError(said, param="max_new_tokens")

    def refuse_others(self, session: Session) -> None:
        """Refuse to add to a session of other models.

        Raises:
            ApiError: its numbers would not compare.
        """
        if not self.same_models(session):
            raise ApiError(
                "This session was read by other models, or at another β: new numbers would not compare with its own. "
                "Begin a new session with its prompt.",
                status=409,
                code="other_models",
            )


def _plain(models: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(models, sort_keys=True, default=str))
