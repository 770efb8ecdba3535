"""Options that several commands share: each stands here once, with its help. Imports no torch."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenq.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """In which type a model computes, and where."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto takes the checkpoint's."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DeviceOptions):
    """A policy with its reference, and how they are loaded."""

    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto"
    """How tokens go through a model; auto takes the fastest way that proves exact."""
    trust_remote_code: bool = False
    """Run Python code that a model brings along. Only for models whose authors you trust."""
    policy: str | None = None
    """Policy: a folder, a hub id, or the folder of an adapter."""
    reference: str | None = None
    """Reference. Default: for an adapter its base, for --run what the run was trained against."""
    run: str | None = None
    """Folder of a finished training run: takes policy, reference and beta from it."""
    base: str | None = None
    """Base model of an adapter, instead of the one that it names: where that has moved, or is on another machine."""
    beta: float | None = None
    """KL temperature of implicit rewards. Default: that of --run, else 0.1."""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(ModelOptions):
    """Models that read whole responses."""

    tokens_per_batch: int = 4096
    """Maximum number of tokens in one forward pass. Affects only memory and speed."""


@dataclass(frozen=True, kw_only=True)
class ConditionOptions:
    """What a policy that was trained with --condition-on is asked for."""

    condition: Mapping[str, float] = field(default_factory=dict)
    """Levels that a policy of tokenq train --condition-on is asked for: --condition helpfulness=4 verbosity=1. Of an
    attribute that is not named here, every row says its own, in a column of that name or in ratings."""


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """A reward model."""

    reward_model: str | None = None
    """A sequence classifier that judges responses."""
    reward_weights: Mapping[str, str] = field(default_factory=dict)
    """Weights of the outputs of a --reward-model with several: --reward-weights helpfulness=0.65 correctness=0.8."""


JUDGES = ("verifier", "reward_model", "attributes", "implicit", "ask", "return")
"""Judges with a name of their own. FILE.py:FUNCTION is a function of the user's, any other name a chat model's."""


def judge_kind(judge: str) -> str:
    """Return the row of the table of judges that a name stands for: one of `JUDGES`, "function" or "chat"."""
    if judge in JUDGES:
        return judge
    return "function" if judge.rpartition(":")[0].endswith(".py") else "chat"


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(RewardOptions):
    """Who says what a response is worth."""

    judge: str | None = None
    """Judge: verifier (true answers), reward_model, implicit (β log π/π_ref of --judge-run), ask (a person fills in a
    file of comparisons), FILE.py:FUNCTION (a function of prompts and responses that returns their rewards), or the name
    of a chat model behind an OpenAI-compatible endpoint; OPENAI_BASE_URL and OPENAI_API_KEY say which endpoint."""
    judge_run: str | None = None
    """Folder of a finished run whose policy and reference judge (a DPO policy is a reward model)."""
    base_url: str | None = None
    """The endpoint of a chat model that judges, instead of OPENAI_BASE_URL."""

    def judge_lacks(self, judge: str) -> list[UserError]:
        """Return what a judge of this name lacks, whoever uses it."""
        found = []
        close = difflib.get_close_matches(judge, JUDGES, n=1, cutoff=0.8)
        if judge_kind(judge) == "chat" and close:
            hint = f"Did you mean {close[0]!r}? Other names than {', '.join(JUDGES)} are those of chat models."
            found.append(UserError(f"There is no judge {judge!r}.", hint))
        if judge in ("reward_model", "attributes") and self.reward_model is None:
            found.append(UserError(f"--judge {judge} without a --reward-model.", "Name it: --reward-model RM."))
        if judge == "attributes" and self.reward_weights:
            hint = "Leave it out: the levels that are asked for say what each output should be."
            found.append(UserError("--reward-weights is given, and --judge attributes reads the outputs apart.", hint))
        return found


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """What a policy learns to be asked for."""

    condition_on: Sequence[str] = ()
    """Ratings that stand in the prompts, so that the policy can be asked for them (tokenq search --condition
    helpfulness=4): each response of --loss sft is learnt behind its own."""
    condition_scale: Sequence[float] = ()
    """Least and greatest rating of --condition-on. Default: 0 4, as in HelpSteer."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Parts of a response that have strengths of their own."""

    segments: Mapping[str, float] = field(default_factory=dict)
    """Strengths β of parts of a response, in losses with a reference and in simpo: --segments words=0.1 image=0.02.
    The first is where tokens belong that nothing else claims. 0: no gradient from this part."""
    segment_starts: Mapping[str, str] = field(default_factory=dict)
    """Tokens with which segments begin: --segment-starts image=<image>. Without one, a segment is a turn of the
    assistant with its name."""

    def segment_faults(self) -> list[UserError]:
        """Return what cannot be meant by the segments."""
        found, known = [], list(self.segments)
        for name, strength in self.segments.items():
            if not (isinstance(strength, int | float) and math.isfinite(strength) and strength >= 0):
                hint = "Give a number above 0, or 0 for no gradient from this part."
                found.append(UserError(f"--segments: the strength of {name!r} is {strength}.", hint))
        if known and not found and not any(self.segments.values()):
            found.append(UserError("--segments: every strength is 0.", "Nothing would be learnt: give one above 0."))
        if self.segment_starts and not known:
            found.append(UserError("--segment-starts is given without --segments.", "Give their strengths."))
        strange = [name for name in self.segment_starts if name not in known] if known else []
        return [*found, *(unknown_name("segment in --segment-starts", name, known) for name in strange)]

    def times(self, factor: float) -> "SegmentOptions":
        """Return the same segments with every strength times a factor."""
        return SegmentOptions(
            segments={name: factor * strength for name, strength in self.segments.items()},
            segment_starts=self.segment_starts,
        )

    def segment_beta(self) -> float | None:
        """Return the temperature that strengths are parts of: the first above 0; None without segments."""
        return next((strength for strength in self.segments.values() if strength > 0), None)


@dataclass(frozen=True, kw_only=True)
class PairingOptions:
    """Which pairs are made of rated responses, and which of all pairs are taken."""

    pairing: Literal["best_worst", "all", "adjacent", "votes"] = "best_worst"
    """Which pairs rated responses give: the best over the worst, every two of different rating, each over the next
    below it, or every two of different number of votes (chains of summaries)."""
    same_length: float | None = None
    """Take pairs of one length only: the share by which the longer side may be longer, in words and marks (0.05);
    others are left out and counted."""


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """What single tokens count in a loss of pairs."""

    token_weights: str | None = None
    """What tokens count in losses of pairs: a column of the data (a number for each token, or stretches of the text) or
    readout:NAME: confidence (those no likelier than the mean of their response: ConfPO), contrast (TIS-DPO) or any
    read-out (implicit_reward: SePO) of --token-traces."""
    token_traces: str | None = None
    """Traces of the data that --token-weights readout:NAME reads: tokenq score --policy ORACLE --reference REFERENCE
    --output FILE; for contrast those of a good policy and a bad one."""
    token_weight_options: Mapping[str, float] = field(default_factory=dict)
    """Parameters of a read-out: fraction (0.3, of the tokens that count), or of contrast mu (1), scale (1), low (-0.5)
    and high (1.5)."""

    def weight_faults(self) -> list[UserError]:
        """Return what cannot be meant by the weights."""
        if self.token_weights is None:
            given = [name for name in ("token_traces", "token_weight_options") if getattr(self, name)]
            return [
                UserError(f"--{name.replace('_', '-')} is given without --token-weights.", "Name what is to be read.")
                for name in given
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What is learnt of pictures, by an image model alone or behind a refiner of prompts."""

    image_model: str | None = None
    """Image model (folder of a diffusers pipeline) that draws from what --model, a language model, writes: both are
    trained, as one policy."""
    image_learning_rate: float | None = None
    """Peak learning rate of --image-model. Default: 1e-5; with an adapter 1e-4."""
    image_term: Literal["auto", "error", "trajectory"] = "auto"
    """Log-probs of a picture: error (denoising errors at drawn noise levels) or trajectory (the density of the steps in
    which it was drawn). auto: trajectory where every picture has one."""
    image_weights: Literal["log_snr", "constant"] = "log_snr"
    """What the error of a noise level counts: log_snr makes nats of it; constant is what released code has, on no known
    scale."""
    noise_draws: int = 1
    """Noise levels that are drawn for a picture in each step of --image-term error."""
    images_per_batch: int = 16
    """Maximum number of noisy pictures in one forward pass on one process. Affects only memory and speed."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How the columns of data are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns prompt=ask chosen=good (tokenq's name first)."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text as it is, or make chat turns of it."""


@dataclass(frozen=True, kw_only=True)
class RowOptions(TextOptions):
    """How rows are read, and what becomes of bad ones."""

    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used: stop, or leave it out and count it."""
