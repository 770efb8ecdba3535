"""What `tokenq play` may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenq.errors import UserError
from tokenq.options import ReaderOptions
from tokenq.ranges import Range, check_ranges
from tokenq.rollout.episodes.options import RANGES as PLAYING
from tokenq.rollout.episodes.options import EnvironmentOptions
from tokenq.rollout.sync import WriterAddress, refuse_address


@dataclass(frozen=True, kw_only=True)
class PlayConfig(WriterAddress, EnvironmentOptions, ReaderOptions):
    """Play episodes with an environment: what was said and done, what it was worth, and which turn lost it."""

    episodes: int = 8
    """Episodes: those of the environment's seeds --seed, --seed + 1, …"""
    max_new_tokens: int | None = None
    """Maximum number of tokens in an action. Default: the environment's."""
    max_length: int | None = None
    """Maximum number of tokens in an episode, where the models read more."""
    temperature: float = 1.0
    """Temperature of actions; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0 for all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens only that together have this probability."""
    min_p: float = 0.0
    """Draw only tokens at least this often as likely as the likeliest."""
    eos: Sequence[str] = ()
    """Further tokens that end an action, as text: one token each."""
    search: Literal["none", "best_of_n", "tree"] = "none"
    """Search over whole actions, in copies of the environment: the best of --candidates in every turn, or a tree."""
    search_value: Literal["implicit", "return", "exact"] | None = None
    """Searches: what actions are worth: Σ β log π/π_ref of their tokens, the environment's own rewards to the end as
    the policy would play it, or the exact value, where the environment's states can be listed. Default: implicit
    where there is a reference, else return."""
    candidates: int = 4
    """Searches: actions that are drawn in a state; those that read the same are one."""
    simulations: int = 16
    """Trees: how often it is gone on from a line of actions, in every turn."""
    seed: int = 0
    """Seed of the first episode, and of everything that is drawn."""

    output: str | None = None
    """File of episodes: .jsonl, one line per episode."""
    html: str | None = None
    """Page to look at them: conversations with heat, values by turn; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""
    batch_size: int = 32
    """Episodes that a process plays side by side. Affects only memory and speed, and how log-probs are rounded."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        if self.environment is None:
            hint = "Name one: --environment gridworld; docs/agents.md lists them."
            raise UserError("There is no environment to play with.", hint)
        if (self.policy is None) == (self.run is None):
            raise UserError("Give either --policy or --run.", "--run takes the models of a finished training run.")
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise UserError(f"--output {self.output}: the form is not known.", "Name it .jsonl.")
        if self.search != "none" and (self.temperature == 0 or self.when_full == "cut"):
            odd = "--temperature 0, which proposes one action" if self.temperature == 0 else "--when-full cut"
            raise UserError(f"--search {self.search} does not go with {odd}.", "Leave one of the two out.")
        refuse_address(self)


RANGES = (
    *PLAYING,
    Range(("episodes",), least=1, most=10_000_000),
    Range(("batch_size",), least=1, most=100_000),
    Range(("min_p",), least=0, most=1),
    Range(("candidates",), least=1, most=10_000),
    Range(("simulations",), least=1, most=1_000_000),
)
"""Ranges of the numbers of a play."""

SECTIONS = {
    "policy": "models",
    "environment": "what to play",
    "episodes": "what to play",
    **dict.fromkeys(("max_new_tokens", "writer"), "how actions are written"),
    "search": "how actions are searched for",
    "output": "what comes out",
    **dict.fromkeys(("seed", "tokens_per_batch", "dtype"), "how"),
}
SPELT_ELSEWHERE = {
    "env": "environment",
    "env_options": "environment_options",
    "env_args": "environment_options",
    "num_episodes": "episodes",
    "n": "episodes",
    "steps": "max_turns",
    "max_steps": "max_turns",
    "timeout": "step_timeout",
    "model": "policy",
    "ref": "reference",
    "max_tokens": "max_new_tokens",
    "num_envs": "batch_size",
}
"""Other tools' names of a field, for the hint after a flag that does not exist."""
