"""The settings of the methods: each number stands once, with its default and its words. Imports no torch."""

from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any, Literal, TypeVar

from tokenq.errors import UserError, unknown_name

Part = TypeVar("Part")

COLDEST = 1e-6
"""Smallest temperature that draws: logits that are divided by less leave the numbers there are."""


@dataclass(frozen=True)
class Width:
    """How many responses of a prompt are written side by side."""

    width: int = 5
    """Beams (beam, beam_sample, chunk_beam, lookahead)."""


@dataclass(frozen=True)
class Beams(Width):
    """How wide, and when to stop."""

    length_penalty: float = 1.0
    """Beams: finished responses are ranked by score / length^penalty, the length that of the response alone."""
    early_stopping: str = "false"
    """Beams: true stops at width finished responses, false when no beam could win at its length, never at any."""
    groups: int = 1
    """Beams: groups that are kept apart by --diversity-penalty."""
    diversity_penalty: float = 0.0
    """Beams: what a token costs a group for every beam of an earlier group that chose it."""

    def __post_init__(self) -> None:
        """Refuse beams that are none."""
        if self.width < 1:
            raise UserError(f"A width of {self.width} searches nothing.", "Give 1 or more beams.")
        if self.groups < 1 or self.width % self.groups:
            raise UserError(f"{self.width} beams cannot be parted into {self.groups} groups.", "Choose a divisor.")
        if not (isfinite(self.length_penalty) and isfinite(self.diversity_penalty)):
            raise UserError("Penalties of beams are finite numbers.", "A length penalty of 0 ranks by the sum.")
        if self.early_stopping not in ("true", "false", "never"):
            said = f"early_stopping is true, false or never, not {self.early_stopping!r}."
            raise UserError(said, "See tokenq search --help.")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; filters apply in the order in which they stand here, as in transformers."""

    temperature: float = 1.0
    """Samples, drawn beams: logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 0
    """Samples, drawn beams: only the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Samples, drawn beams: only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Samples, drawn beams: only tokens at least this often as likely as the likeliest."""

    def __post_init__(self) -> None:
        """Refuse filters that leave nothing."""
        if not (self.temperature == 0 or COLDEST <= self.temperature < inf):
            hint = f"It is 0 for the likeliest token, else {COLDEST} or more."
            raise UserError(f"A temperature of {self.temperature} draws nothing.", hint)
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise UserError(
                f"{self} leaves nothing to draw.", "top_k is 0 or more, top_p is in (0, 1], min_p in [0, 1]."
            )


@dataclass(frozen=True)
class Chunks(Width):
    """How wide, and how often it is chosen."""

    chunk_samples: int = 4
    """Chunk beams: continuations of each beam, K."""
    chunk_length: int = 5
    """Chunk beams: tokens of a chunk, L."""
    chunk_from: str = "policy"
    """Chunk beams: whose distribution chunks are drawn from, policy or reference."""

    def __post_init__(self) -> None:
        """Refuse chunks that are none."""
        if min(self.width, self.chunk_samples, self.chunk_length) < 1:
            raise UserError("width, samples and length of chunks are 1 or more.", "Weak-to-strong search took 4, 4, 5.")
        if self.chunk_from not in ("policy", "reference"):
            raise UserError(f"Chunks come from policy or reference, not {self.chunk_from!r}.", "Name one of the two.")


@dataclass(frozen=True)
class Lookahead(Width):
    """How far the value may lead away from the policy; one beam is ARGS."""

    lookahead_top_k: int = 10
    """Lookahead: tokens that are judged at every step."""
    lookahead_weight: float = 1.0
    """Lookahead: weight of the value against nats of likelihood."""

    def __post_init__(self) -> None:
        """Refuse a search that does nothing."""
        if self.width < 1 or self.lookahead_top_k < 1:
            raise UserError("width and top_k of a lookahead are 1 or more.", "ARGS took 1 and 10.")
        if not isfinite(self.lookahead_weight):
            raise UserError("The weight of a lookahead is a finite number.", "ARGS took about 1.")


@dataclass(frozen=True)
class Tree:
    """How a tree is searched."""

    simulations: int = 64
    """Trees: simulations for each prompt; with --commit token for each token."""
    children: int = 8
    """Trees: likeliest tokens that a node is expanded into; 0 for all."""
    tree_rule: str = "puct"
    """Trees: puct, or gumbel (sequential halving)."""
    exploration: float = 1.25
    """Trees: c of PUCT."""
    backup: Literal["max", "mean"] = "max"
    """Trees: what a node is worth: the best that was found below it, or the mean."""
    commit: Literal["never", "token"] = "never"
    """Trees: one tree to the end, or the best child becomes the root after so many simulations."""
    rollouts: int = 1
    """Trees: responses written to their end from each leaf, whose mean score (or what the reward model says of them) is
    its value; 0 takes the score so far, or what the reward model says of the prefix."""

    def __post_init__(self) -> None:
        """Refuse a search that does nothing."""
        if self.simulations < 1 or not all(one >= 0 for one in (self.children, self.rollouts, self.exploration)):
            raise UserError(
                "simulations must be 1 or more, children, rollouts and exploration 0 or more.",
                "0 children takes all tokens.",
            )
        if self.tree_rule not in ("puct", "gumbel"):
            raise unknown_name("tree rule", self.tree_rule, ("puct", "gumbel"))


def part(kind: type[Part], config: Any) -> Part:
    """Return the part of a configuration that is of a kind, checked.

    Raises:
        UserError: its numbers search nothing.
    """
    return kind(**{name: getattr(config, name) for name in names_of(kind)})


def names_of(kind: Any) -> tuple[str, ...]:
    """Return the names of the settings of a kind."""
    return tuple(one.name for one in fields(kind))


PARTS: tuple[type[Any], ...] = (Beams, Sampling, Chunks, Lookahead, Tree)
"""The settings of all methods."""
