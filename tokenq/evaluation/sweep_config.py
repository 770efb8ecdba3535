"""The settings of a sweep. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenq.errors import UserError
from tokenq.ranges import Range, check_ranges
from tokenq.search.config import SearchOptions

SETTINGS = (
    "greedy",
    "sample n=16",
    *(f"best_of_n n={n}" for n in (2, 4, 8, 16)),
    *(f"majority n={n}" for n in (4, 8, 16)),
    *(f"beam width={width}" for width in (2, 3, 5, 10)),
    *(f"mcts simulations={count}" for count in (4, 8, 16)),
)
"""The searches that are swept where no others are asked for; the votes only where there are answers."""


RANGES = (Range(("batch_size", "pool"), least=1, most=10_000),)
"""Ranges of the numbers of a sweep."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(SearchOptions):
    """Compare searches at equal cost: quality against tokens, beside what plain samples reach for the same tokens."""

    proxy: Sequence[str] = ()
    """Small models that steer the policy: TUNED UNTUNED, or several such pairs; settings may set alpha=0.5."""
    reward_model: str | None = None
    """A sequence classifier: judges where no --gold does, and leads lookahead and mcts."""
    answer: str | None = None
    """How the answer of a response is found: last_number, boxed, math, text or regex:PATTERN."""
    gold: str | None = None
    """Column with the true answer, read as responses are; a response is right when it says the same."""

    settings: Sequence[str] = ()
    """Searches, each a method with its options as in tokenq search: greedy "beam width=5" "mcts simulations=8".
    Default: greedy, samples, best of n, votes, beams and trees of several sizes."""
    pool: int = 16
    """Samples of each prompt that every search is compared with, as many as its tokens would have paid for."""
    temperature: float = 1.0
    """Of all samples."""
    top_k: int = 0
    """Samples: only the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Samples: only the likeliest tokens that together have this probability."""

    output: str = ""
    """Folder of results: sweep.json, sweep.md, a figure, and what every search found."""
    overwrite: bool = False
    """Replace files that this command did not write."""
    seed: int = 0
    """Seed of everything that is drawn, and of the intervals."""

    def check(self, *, judged: bool = False) -> None:
        """Refuse what cannot be meant together.

        Args:
            judged: whether something else than the configuration says what is good.

        Raises:
            UserError: names the flags.
        """
        if not self.prompts or not self.output:
            missing = "--output" if self.prompts else "--prompts"
            raise UserError(f"{missing} is missing.", "A sweep takes --prompts FILE and --output FOLDER.")
        if not judged and self.gold is None and self.reward_model is None:
            raise UserError(
                "There is nothing to judge by.", "Name the column of true answers, --gold answer, or a --reward-model."
            )
        if self.gold is not None and self.answer is None:
            raise UserError("--gold needs --answer.", "Say how answers are found: --answer last_number.")
        check_ranges(self, RANGES)


SECTIONS = {
    **dict.fromkeys(("policy", "reward_model"), "models"),
    **dict.fromkeys(("prompts", "gold", "columns"), "what to answer"),
    "settings": "what to compare",
    "output": "what comes out",
    **dict.fromkeys(("seed", "dtype"), "how"),
}
