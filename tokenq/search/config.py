"""What a search may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch.

Settings of methods stand in `tokenq.search.settings`; a command's configuration is made of them and of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from tokenq.errors import UserError
from tokenq.ranges import Range, check_ranges
from tokenq.search.settings import Beams, Chunks, Lookahead, Sampling, Tree, names_of


@dataclass(frozen=True)
class Models:
    """The models of a search."""

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
    """Small models that steer the policy: TUNED UNTUNED, or several such pairs (proxy tuning)."""
    reward_model: str | None = None
    """A sequence classifier that judges prompt and response: for --ranking value, lookahead, mcts."""
    reward_weights: Mapping[str, str] = field(default_factory=dict)
    """Weights of the outputs of a --reward-model with several: --reward-weights helpfulness=0.65 correctness=0.8."""

    @property
    def reward_beta(self) -> float:
        """β of rewards, where nobody has said another."""
        return 0.1 if self.beta is None else self.beta


@dataclass(frozen=True)
class Prompts:
    """What is to be answered, and how long answers may be."""

    prompts: Sequence[str] = ()
    """Files of prompts: a column prompt, messages, question or instruction, or any data that tokenq train reads."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns prompt=ask (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used: stop, or leave it out and count it."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text as it is, or make a user's turn of it."""
    max_new_tokens: int = 256
    """Most tokens of a response; one that is cut is said not to be terminal."""
    eos: Sequence[str] = ()
    """Further tokens that end a response, as text: one token each."""


@dataclass(frozen=True)
class Asked(Prompts):
    """What a search is to answer: data, or one prompt."""

    prompt: str | None = field(default=None, metadata={"text": True})
    """One prompt, instead of --prompts; for a tokenizer with a chat template the user's turn."""
    budget: int | None = None
    """Most tokens that may go through the policy for one prompt, itself included."""


@dataclass(frozen=True)
class Choice:
    """Which search, and what it is for."""

    method: str = "beam"
    """greedy, sample, best_of_n, majority, weighted_vote, beam, beam_sample, chunk_beam, lookahead or mcts."""
    objective: str = "likelihood"
    """What beams and trees maximise: likelihood (log π) or reward (β log π/π_ref); with a reward model trees maximise
    what it says."""
    n: int = 8
    """Samples (sample, best_of_n, majority, weighted_vote)."""
    ranking: str = "reward"
    """What the best of n is, or a vote weighs: reward, mean_reward, likelihood, mean_likelihood, or value."""
    answer: str | None = None
    """How the answer of a response is found, for votes: last_number, boxed, math, text or regex:PATTERN."""
    alpha: Sequence[str] = ()
    """Weight of each pair of --proxy. Default: 1."""


@dataclass(frozen=True)
class Outputs:
    """Where results go."""

    output: str | None = None
    """File of results: .jsonl, one line a prompt."""
    html: str | None = None
    """Page to look at them: candidates and trees; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""


@dataclass(frozen=True)
class Compute:
    """How it is computed."""

    seed: int = 0
    """Seed of everything that is drawn."""
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


_SAMPLED = names_of(Sampling)

USED: Mapping[str, tuple[str, ...]] = {
    "greedy": (),
    "sample": ("n", *_SAMPLED),
    "best_of_n": ("n", "ranking", *_SAMPLED),
    "majority": ("n", *_SAMPLED),
    "weighted_vote": ("n", "ranking", *_SAMPLED),
    "beam": (*names_of(Beams), "objective"),
    "beam_sample": ("width", "length_penalty", "early_stopping", *_SAMPLED),
    "chunk_beam": (*names_of(Chunks), *_SAMPLED),
    "lookahead": names_of(Lookahead),
    "mcts": (*names_of(Tree), "objective", *_SAMPLED),
}
"""Fields that a method uses, beyond those that all use."""


RANGES = (
    Range(("batch_size",), least=1, most=10_000),
    Range(
        ("width", "n", "groups", "chunk_samples", "chunk_length", "lookahead_top_k", "simulations"),
        least=1,
        most=10_000,
    ),
    Range(("rollouts",), least=0, most=10_000),
    Range(("children",), least=0, most=2**31 - 1),
    Range(("budget",), least=1, most=2**31 - 1),
    Range(("min_p",), least=0, most=1),
    Range(("length_penalty",), least=-10, most=10),
    Range(("lookahead_weight",), least=-(10**9), most=10**9),
    Range(("diversity_penalty", "exploration"), least=0, most=1_000_000),
)
"""What numbers of a search may be: more branches than these are no search that anybody could wait for."""


@dataclass(frozen=True)
class SearchConfig(Compute, Outputs, Tree, Lookahead, Chunks, Sampling, Beams, Choice, Asked, Models):
    """Write better answers with a trained policy: beams, best of n, votes, tree search, a small pair as a guide."""

    tokens_per_batch: int = 4096
    """Most tokens in one forward over whole responses. Sets memory and speed, never the result."""

    def __post_init__(self) -> None:
        """Leave the parts to be checked where they are used, when all that is wrong can be named by its flag."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        if (self.prompt is None) == (not self.prompts):
            raise UserError("There is nothing to answer, or too much.", "Give --prompts FILE or --prompt TEXT.")
        if self.output is not None and not self.output.endswith(".jsonl"):
            raise UserError(f"--output {self.output}: the form is not known.", "Name it .jsonl.")
        self.check_method()

    def check_command(self) -> None:
        """Refuse what a command cannot do: as `check`, and many prompts with nothing to come of them.

        Raises:
            UserError: names the flags.
        """
        self.check()
        if self.prompts and self.output is None and self.html is None:
            hint = "Name a file for the results, --output results.jsonl, or a page, --html results.html."
            raise UserError("--output is missing.", hint)

    def check_method(self) -> None:
        """Refuse numbers that search nothing, and options that the method would not look at.

        Raises:
            UserError: names the flag.
        """
        check_ranges(self, RANGES)
        if self.method not in USED:
            return  # the table of methods says so, with the nearest name
        judges = self.method in ("lookahead", "mcts") or (self.ranking == "value" and "ranking" in USED[self.method])
        if self.reward_weights and self.reward_model is None:
            raise UserError("--reward-weights is given, and no --reward-model.", "Name the model that they belong to.")
        if self.reward_model is not None and not judges:
            raise UserError(
                f"--reward-model has no effect on the method {self.method}.",
                "It belongs to lookahead and mcts, and to best_of_n and weighted_vote with --ranking value.",
            )
        optional = {name for names in USED.values() for name in names} - set(USED[self.method])
        for one in fields(self):
            if one.name in optional and getattr(self, one.name) != one.default:
                takes = [method for method, names in USED.items() if one.name in names]
                raise UserError(
                    f"--{one.name.replace('_', '-')} has no effect on the method {self.method}.",
                    f"It belongs to {', '.join(takes)}.",
                )


SECTIONS = {
    "policy": "models",
    "prompts": "what to answer",
    "method": "how to search",
    "length_penalty": "the methods' own",
    "output": "what comes out",
    "seed": "how",
}
SPELT_ELSEWHERE = {
    "num_beams": "width",
    "beams": "width",
    "num_return_sequences": "n",
    "data": "prompts",
    "model": "policy",
    "ref": "reference",
    "max_tokens": "max_new_tokens",
    "num_simulations": "simulations",
    "diversity": "diversity_penalty",
    "num_beam_groups": "groups",
}
