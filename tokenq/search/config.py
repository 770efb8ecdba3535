"""The settings of a search; flags, YAML keys and Python arguments have these names. Imports no torch.

Settings of methods stand in `tokenq.search.settings`; a command's configuration is made of them and of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from tokenq.errors import UserError
from tokenq.options import ConditionOptions, ModelOptions, RewardOptions, RowOptions
from tokenq.ranges import Range, check_ranges
from tokenq.search.settings import Beams, Chunks, Lookahead, Sampling, Tree, names_of


@dataclass(frozen=True, kw_only=True)
class SearchOptions(ConditionOptions, ModelOptions, RewardOptions, RowOptions):
    """The settings of every search, whatever its method."""

    proxy: Sequence[str] = ()
    """Small models that steer the policy: TUNED UNTUNED, or several such pairs (proxy tuning)."""
    prompts: Sequence[str] = ()
    """Files of prompts: a column prompt, messages, question or instruction, or any data that tokenq train reads."""
    answer: str | None = None
    """How the answer of a response is found, for votes: last_number, boxed, math, text or regex:PATTERN."""
    max_new_tokens: int = 256
    """Maximum number of tokens in a response; one that reaches it is marked `"terminal": false`."""
    eos: Sequence[str] = ()
    """Further tokens that end a response, as text: one token each."""
    seed: int = 0
    """Seed of everything that is drawn."""
    batch_size: int = 8
    """Prompts that are searched side by side. Affects only memory and speed."""

    @property
    def reward_beta(self) -> float:
        """β of rewards, where nobody has said another."""
        return 0.1 if self.beta is None else self.beta


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
"""Ranges of the numbers of a search: more branches than these are no search that anybody could wait for."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Tree, Lookahead, Chunks, Sampling, Beams, SearchOptions):
    """Write better answers with a trained policy: beams, best of n, votes, tree search, a small pair as a guide."""

    reward_model: str | None = None
    """A sequence classifier that judges prompt and response: for --ranking value, lookahead, mcts."""
    prompt: str | None = field(default=None, metadata={"text": True})
    """One prompt, instead of --prompts; for a tokenizer with a chat template the user's turn."""
    alpha: Sequence[str] = ()
    """Weight of each pair of --proxy. Default: 1."""
    method: str = "beam"
    """greedy, sample, best_of_n, majority, weighted_vote, beam, beam_sample, chunk_beam, lookahead or mcts."""
    objective: str = "likelihood"
    """What beams and trees maximise: likelihood (log π) or reward (β log π/π_ref); with a reward model trees maximise
    what it says."""
    n: int = 8
    """Samples (sample, best_of_n, majority, weighted_vote)."""
    ranking: str = "reward"
    """What the best of n is, or a vote weighs: reward, mean_reward, likelihood, mean_likelihood, or value."""
    budget: int | None = None
    """Maximum number of tokens that may go through the policy for one prompt, itself included."""
    tokens_per_batch: int = 4096
    """Maximum number of tokens in one forward over whole responses. Affects only memory and speed."""
    output: str | None = None
    """File of results: .jsonl, one line per prompt."""
    html: str | None = None
    """Page to look at them: candidates and trees; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""

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
    **dict.fromkeys(("policy", "alpha", "reward_model"), "models"),
    **dict.fromkeys(("prompts", "prompt", "columns", "max_new_tokens", "budget"), "what to answer"),
    **dict.fromkeys(("method", "width", "answer"), "how to search"),
    "length_penalty": "the methods' own",
    "output": "what comes out",
    **dict.fromkeys(("seed", "tokens_per_batch", "dtype"), "how"),
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
