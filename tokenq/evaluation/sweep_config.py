"""What a sweep may be asked for. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenq.errors import UserError
from tokenq.ranges import Range, check_ranges

SETTINGS = (
    "greedy",
    "sample n=16",
    *(f"best_of_n n={n}" for n in (2, 4, 8, 16)),
    *(f"majority n={n}" for n in (4, 8, 16)),
    *(f"beam width={width}" for width in (2, 3, 5, 10)),
    *(f"mcts simulations={count}" for count in (4, 8, 16)),
)
"""What is swept where nothing else is asked for; the votes only where there are answers."""


RANGES = (Range(("batch_size", "pool"), least=1, most=10_000),)
"""What numbers of a sweep may be."""


@dataclass(frozen=True)
class SweepConfig:
    """Compare searches at equal cost: quality against tokens, beside what plain samples reach for the same tokens."""

    policy: str | None = None
    """Policy: a folder, a hub id, or the folder of an adapter."""
    reference: str | None = None
    """Reference, for rewards. Default: for an adapter its base, for --run what the run was trained against."""
    run: str | None = None
    """Folder of a finished training run: takes policy, reference and beta from it."""
    base: str | None = None
    """Base model of an adapter, instead of the one that it names: where that has moved, or is on another machine."""
    beta: float | None = None
    """KL temperature of rewards. Default: that of --run, else 0.1."""
    proxy: Sequence[str] = ()
    """Small models that steer the policy: TUNED UNTUNED, or several such pairs; settings may set alpha=0.5."""
    reward_model: str | None = None
    """A sequence classifier: judges where no --gold does, and leads lookahead and mcts."""
    reward_weights: Mapping[str, str] = field(default_factory=dict)
    """Weights of the outputs of a --reward-model with several: --reward-weights helpfulness=0.65 correctness=0.8."""

    prompts: Sequence[str] = ()
    """Files of prompts, as for tokenq search."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns prompt=ask (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used: stop, or leave it out and count it."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text as it is, or make a user's turn of it."""
    answer: str | None = None
    """How the answer of a response is found: last_number, boxed, math, text or regex:PATTERN."""
    gold: str | None = None
    """Column with the true answer, read as responses are; a response is right when it says the same."""
    max_new_tokens: int = 256
    """Most tokens of a response."""
    eos: Sequence[str] = ()
    """Further tokens that end a response, as text: one token each."""

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
    batch_size: int = 8
    """Prompts that are searched side by side. Sets memory and speed, never the result."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto takes the checkpoint's."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto"
    """How tokens go through a model; auto takes the fastest way that proves exact."""
    trust_remote_code: bool = False
    """Run Python code that a model brings along. Only for models whose authors you trust."""

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
    "policy": "models",
    "prompts": "what to answer",
    "settings": "what to compare",
    "output": "what comes out",
    "seed": "how",
}
