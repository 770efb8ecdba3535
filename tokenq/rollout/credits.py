"""Credits by name, in one table, and the settings of learning from advantages. Imports no torch.

A credit says how a round's rewards become an advantage for every token: which estimator, which dense rewards of tokens
stand beside the judge's, and in which form. The estimators are rows of `tokenq.rollout.advantages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from tokenq.errors import UserError


class Credit(NamedTuple):
    """A row of the table.

    Attributes:
        estimator: a key of `ESTIMATORS`.
        token_rewards: a key of `TOKEN_REWARDS`, or "none".
        form: what the rewards of tokens do: a key of `FORMS`.
        grouped: whether a response is measured against the others to its prompt.
        valued: whether a value network is read.
    """

    estimator: str
    token_rewards: str = "none"
    form: str = "scaled"
    grouped: bool = False
    valued: bool = False


CREDITS: dict[str, Credit] = {
    "returns": Credit("returns"),
    "group": Credit("group", grouped=True),
    "leave_one_out": Credit("leave_one_out", grouped=True),
    "gae": Credit("gae", valued=True),
    "implicit": Credit("returns", "implicit", "baseline"),
    "prime": Credit("prime", "prime", grouped=True),
}
"""Every credit by its name. `--token-rewards` and `--token-reward-form` replace what a row says."""

BASELINES = ("returns", "leave_one_out")
"""Estimators whose baseline token rewards in the form `baseline` take the place of."""

GENERAL: Mapping[str, Any] = {
    "token_reward_weight": 1.0,
    "gamma": 1.0,
    "lam": 1.0,
    "whiten_advantages": False,
    "kl": "none",
}
"""Settings where neither anybody asks for another nor the method has one."""


@dataclass(frozen=True, kw_only=True)
class CreditOptions:
    """How rewards become advantages, for methods that learn from these."""

    credit: Literal["auto", "returns", "group", "leave_one_out", "gae", "implicit", "prime"] = "auto"
    """What a token is credited with: the returns that follow it, these against the prompt's other responses (group,
    leave_one_out), against a value network (gae), against V* of a DPO run (implicit), or PRIME's sum of both. auto: as
    the method has it."""
    token_rewards: Literal["auto", "none", "implicit", "prime", "reward_model", "judge"] = "auto"
    """Rewards of single tokens beside the judge's: β log π/π_ref of --credit-run, or of a process reward model that is
    trained on the outcomes (prime), or what each token adds to the score of --reward-model, or to the judge's own
    number of the text so far. auto: as --credit has it."""
    token_reward_form: Literal["auto", "scaled", "potential", "baseline"] = "auto"
    """What rewards of tokens do: add to the reward (scaled, which moves the optimum), only shape it (potential, which
    cannot), or give the values that returns are measured against (baseline). auto: as --credit has it."""
    token_reward_weight: float | None = None
    """Weight of rewards of tokens. Default: the method's, else 1."""
    token_reward_clip: float | None = None
    """Largest absolute reward of a token, before its weight. Default: none."""
    credit_run: str | None = None
    """Folder of a finished run whose policy and reference give implicit rewards of tokens (a run of DPO)."""
    gamma: float | None = None
    """Discount of one token. Default: the method's, else 1."""
    lam: float | None = None
    """λ of --credit gae: 1 measures returns against values, 0 single steps. Default: the method's, else 1."""
    scale_rewards: Literal["auto", "group", "batch", "none"] = "auto"
    """Divide by the standard deviation of the rewards of the prompt (group) or of the round (batch). auto: as the
    method has it."""
    reward_clip: float | None = None
    """Largest absolute reward of a response; larger ones are cut to it. Default: none."""
    whiten_advantages: bool | None = None
    """Give the advantages of all tokens of a round mean 0 and variance 1. Default: the method's, else false."""
    normalise_values: bool = False
    """Have the value network learn returns less the mean, and by the standard deviation, of all returns so far."""
    filter_accuracy: Sequence[float] = ()
    """Learn from prompts alone whose mean reward, of outcomes between 0 and 1, is strictly between two numbers: 0.2
    0.8 (PRIME), or 0 1 (DAPO). Default: from all."""
    kl: Literal["auto", "none", "reward", "loss"] = "auto"
    """Where the KL penalty of weight --beta stands: in the rewards of tokens, in the loss, or nowhere. auto: as the
    method has it."""
    kl_estimator: Literal["auto", "k1", "k2", "k3"] = "auto"
    """Estimate of the KL of a token, d = log π/π_ref: d, d²/2, or e^−d − 1 + d. auto: as the method has it."""
    importance_correction: Literal["none", "token", "sequence", "icepop", "geometric"] = "none"
    """Weights for tokens that the trainer gives another probability than their writer did: truncated ratios of tokens
    or of responses, ratios within bounds alone, or responses whose mean ratio is within them."""
    importance_cap: float | None = None
    """Cap of --importance-correction. Default: token 2, sequence 3, icepop 5, geometric 1.01."""
    credit_span: Literal["token", "turn"] = "token"
    """What is one action: a token, or a turn of an episode, all of whose tokens have one advantage."""
    allow_cut_support: bool = False
    """Let --top-p and --top-k leave tokens out whose probabilities are learnt all the same."""


def given_credit_options(config: CreditOptions) -> list[str]:
    """Return the fields of `CreditOptions` that have another value than their default."""
    return [one.name for one in fields(CreditOptions) if getattr(config, one.name) != one.default]


def resolved_credit(config: CreditOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a credit, those that it reads with nothing left open.

    Args:
        config: what is asked for.
        settings: of the method, by the name of the field.
    """

    def first(name: str, other: Any, *, of_method: bool = True) -> Any:
        asked = getattr(config, name)
        return asked if asked not in (None, "auto") else settings.get(name, other) if of_method else other

    credit = first("credit", "returns")
    row, own = CREDITS[credit], credit == settings.get("credit")
    found = {name: first(name, value) for name, value in GENERAL.items()} | {"credit": credit}
    found["token_rewards"] = first("token_rewards", row.token_rewards, of_method=own)
    found["token_reward_form"] = first("token_reward_form", row.form, of_method=own)
    found["scale_rewards"] = first("scale_rewards", "none", of_method=credit == "group")
    found["kl_estimator"] = first("kl_estimator", _ESTIMATES.get(found["kl"], "k1"))
    idle = [name for name, is_read in _read(config, found).items() if not is_read]
    return {name: value for name, value in found.items() if name not in idle}


def _read(config: CreditOptions, found: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether a setting is read, for those that are not with every credit."""
    row, dense = CREDITS[found["credit"]], found["token_rewards"] != "none"
    return {
        "lam": row.valued,
        "normalise_values": row.valued,
        "gamma": row.estimator in ("returns", "gae"),
        "credit_run": found["token_rewards"] == "implicit",
        "token_reward_form": dense,
        "token_reward_weight": dense,
        "token_reward_clip": dense,
        "importance_cap": config.importance_correction != "none",
        "kl_estimator": found["kl"] != "none",
    }


_ESTIMATES = {"reward": "k1", "loss": "k2"}
"""Estimates of the KL whose gradient is its own: as a reward, and as a loss."""


def credit_lacks(
    config: CreditOptions, settings: Mapping[str, Any], samples: int, *, has_reward_model: bool
) -> list[UserError]:
    """Return what a credit lacks, and what goes against it.

    Args:
        config: what is asked for.
        settings: of the method.
        samples: responses to a prompt.
        has_reward_model: whether a reward model is named.
    """
    found, asked = [], resolved_credit(config, settings)
    name, source = asked["credit"], asked["token_rewards"]
    row, based = CREDITS[name], asked.get("token_reward_form") == "baseline"
    if (row.grouped or based) and samples < 2:
        found.append(
            UserError(
                f"--samples {samples}: credit {name} measures a response against others to its prompt.",
                "Give 2 or more (--samples 8), or take --credit returns or gae.",
            )
        )
    found += _filter_lacks(config.filter_accuracy, samples)
    if source == "implicit" and config.credit_run is None:
        hint = "Name a finished run of DPO: --credit-run runs/dpo."
        found.append(UserError("Implicit rewards of tokens are read off a pair of models, and none is named.", hint))
    if source == "reward_model" and not has_reward_model:
        hint = "Name it: --reward-model RM."
        found.append(UserError("--token-rewards reward_model needs a reward model, and none is named.", hint))
    given, read = set(given_credit_options(config)), _read(config, asked)
    for idle in (field for field, is_read in read.items() if field in given and not is_read):
        flag = f"--{idle.replace('_', '-')}"
        found.append(UserError(f"{flag} is given, and nothing reads it with credit {name}.", "Leave it out."))
    if asked["scale_rewards"] == "group" and name != "group":
        found.append(UserError("--scale-rewards group goes with --credit group.", "Take --scale-rewards batch."))
    if based and row.estimator not in BASELINES:
        hint = "Take --credit implicit, or --token-reward-form scaled or potential."
        found.append(UserError(f"--token-reward-form baseline takes the place of the baseline of {name}.", hint))
    if row.estimator == "prime" and source == "none":
        found.append(UserError("--credit prime needs rewards of tokens.", "Leave --token-rewards none out."))
    return found


def _filter_lacks(bounds: Sequence[float], samples: int) -> list[UserError]:
    """Return what goes against learning from some prompts alone."""
    if not bounds:
        return []
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        says = " ".join(f"{bound:g}" for bound in bounds)
        return [UserError(f"--filter-accuracy {says}: it takes a low and a high number.", "Give 0.2 0.8, or 0 1.")]
    hint = "Give 2 or more (--samples 8), or leave --filter-accuracy out."
    found = UserError("--filter-accuracy with --samples 1: the mean of one outcome is 0 or 1.", hint)
    return [found] if samples < 2 else []


def is_grouped(config: CreditOptions) -> bool:
    """Return whether a response is measured against the others to its prompt, in settings with nothing open."""
    based = config.token_rewards != "none" and config.token_reward_form == "baseline"
    return CREDITS[config.credit].grouped or based
