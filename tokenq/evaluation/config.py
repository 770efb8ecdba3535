"""What evaluations may be asked for: one dataclass a task, over what several of them share. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tokenq.errors import UserError
from tokenq.options import ConditionOptions, JudgeOptions, ReaderOptions, RewardOptions, RowOptions
from tokenq.ranges import Range, check_ranges

RANGES = (
    Range(("folds",), least=2, most=1_000),
    Range(("concurrency",), least=1, most=1_000),
    Range(("same_length",), least=0, below=10),
)
"""What numbers of an evaluation may be, beside those that all configurations share."""


@dataclass(frozen=True)
class Evaluation:
    """What every evaluation can be told."""

    output: str | None = None
    """JSON file of all numbers, with where they come from."""
    html: str | None = None
    """Page of tables, figures and examples: one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""
    seed: int = 0
    """Seed of everything that is drawn: intervals, folds, choices."""
    resamples: int = 2000
    """Resamples behind every interval."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)


@dataclass(frozen=True)
class ReadEvaluation(Evaluation, ConditionOptions, ReaderOptions, RowOptions):
    """An evaluation of what a policy and its reference say of given responses."""

    traces: str | None = None
    """Traces of an earlier tokenq score, instead of models and data."""
    data: Sequence[str] = ()
    """Rows, in every form that tokenq train reads."""
    max_length: int | None = None
    """Maximum number of tokens in prompt plus response; longer responses are cut."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        super().check()
        models = self.has_models()
        if (self.traces is None) == (not models):
            raise UserError(
                "There is nothing to evaluate, or too much.", "Give --traces FILE, or --policy (or --run) and --data."
            )
        if models and not self.data:
            raise UserError("--data is missing.", "Name the rows to evaluate on.")

    def has_models(self) -> bool:
        """Return whether models are named that could read the data."""
        return self.policy is not None or self.run is not None


@dataclass(frozen=True)
class JudgedEvaluation(ReadEvaluation, RewardOptions):
    """An evaluation that a reward model can take part in, alone or beside a policy."""

    reward_model: str | None = None
    """A sequence classifier, alone or beside a policy with the same tokens."""

    def has_models(self) -> bool:
        """Return whether models are named that could read the data."""
        return super().has_models() or self.reward_model is not None


@dataclass(frozen=True)
class PreferenceConfig(JudgedEvaluation):
    """Does a policy, or a reward model, prefer what people preferred? RewardBench's accuracies, and calibration."""

    subset: str | None = None
    """Column with a pair's subset; names of RewardBench give its sections and its score."""
    pairing: Literal["none", "best_worst", "all", "adjacent", "votes"] = "none"
    """Pairs to make of rated responses, as tokenq train makes them. none: pairs are those that the data hold."""
    same_length: float | None = None
    """Take pairs of one length only: the share by which the longer side may be longer, in words and marks (0.05)."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        super().check()
        makes = self.pairing != "none" or self.same_length is not None
        if makes and (self.traces is not None or self.subset is not None):
            hint = "Give --data, and no --subset: a row may give several pairs."
            raise UserError("--pairing and --same-length choose pairs of --data.", hint)


@dataclass(frozen=True)
class LocalisationConfig(ReadEvaluation):
    """Where is it wrong? Every read-out and every baseline against labelled errors, token by token."""

    errors: str | None = None
    """Column with the wrong stretches of a response (of the rejected one in a pair): [[start, end], …] in characters.
    Default: the first wrong step of data with labelled steps."""
    classes: Mapping[str, str] = field(default_factory=dict)
    r"""Classes of tokens to look among as well, as patterns: --classes numbers=\d."""
    against: str = "implicit_reward"
    """Read-out that all others are compared with."""


@dataclass(frozen=True)
class FirstErrorConfig(JudgedEvaluation):
    """Which step is the first wrong one? ProcessBench's accuracies, with thresholds chosen on other prompts."""

    readouts: Sequence[str] = ()
    """Read-outs to compare. Default: implicit reward, centred advantage, surprisals, reward model, random."""
    step_scores: Sequence[str] = ("sum", "cumulative", "min", "mean")
    """How the tokens of a step make its score."""
    folds: int = 5
    """Parts of the prompts; thresholds are chosen on the others."""


@dataclass(frozen=True)
class TurnsConfig(ReadEvaluation):
    """Which turn is the mistake? Every read-out summed over the turns of episodes, against optimal actions."""

    data: Sequence[str] = ()
    """Episodes of tokenq play. What an action was worth is known where the environment says so (info "optimal"), and
    where its states can be listed."""
    readouts: Sequence[str] = ()
    """Read-outs to compare. Default: implicit reward, as it is and centred; centred advantage, surprisals, entropy,
    position, random."""
    step_scores: Sequence[str] = ("sum",)
    """How the tokens of a turn make its score: sum, cumulative, min or mean."""
    against: str = "implicit_reward"
    """Read-out that all others are compared with."""


@dataclass(frozen=True, kw_only=True)
class TruthOptions:
    """True answers: those of a column, or a task that verifies itself."""

    prompts: Sequence[str] = ()
    """The prompts that were answered, with the column of true answers."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns prompt=ask (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used: stop, or leave it out and count it."""
    gold: str = "answer"
    """Column of the true answer, read as responses are."""
    answer: str | None = None
    """How answers are found: last_number, boxed, math, text or regex:PATTERN."""
    task: str | None = None
    """A task that verifies answers itself, instead of --prompts: reasoning-gym:NAME:SIZE:SEED."""

    def truth_lacks(self) -> list[UserError]:
        """Return what true answers lack."""
        if self.prompts and self.answer is None:
            return [UserError("--prompts needs --answer.", "Say how answers are found: --answer last_number.")]
        return []


@dataclass(frozen=True)
class ResultsEvaluation(Evaluation, TruthOptions, RewardOptions):
    """An evaluation of stored answers."""

    results: Sequence[str] = ()
    """Files of tokenq search, a system each: FILE, or NAME=FILE."""
    reward_model: str | None = None
    """A sequence classifier that judges instead of true answers."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        super().check()
        if not self.results:
            raise UserError("--results is missing.", "Name files of tokenq search --output: --results ours=a.jsonl.")
        ways = [bool(self.prompts), self.task is not None, self.reward_model is not None]
        if sum(ways) != 1:
            raise UserError(
                "There is nothing to judge by, or too much.",
                "Give --prompts FILE with true answers, a --task, or a --reward-model.",
            )
        for error in self.truth_lacks():
            raise error


@dataclass(frozen=True)
class BestOfNConfig(ResultsEvaluation):
    """Accuracy against n, from stored samples: best by reward, votes, pass@n."""

    beta: float = 0.1
    """KL temperature of rewards."""
    rankings: Sequence[str] = ("reward", "mean_reward", "mean_likelihood")
    """What the best of n is chosen by; rewards need samples that were drawn with a reference."""


@dataclass(frozen=True)
class GenerationConfig(ResultsEvaluation):
    """How good are stored answers? Verified, beside their cost, compared with the first file."""


@dataclass(frozen=True)
class FrontierConfig(ResultsEvaluation):
    """Quality against KL from the reference, for several checkpoints, temperatures or methods."""


@dataclass(frozen=True)
class WinRateConfig(Evaluation, TruthOptions, JudgeOptions):
    """Who wins? From stored preferences, or by a judge; raw and at equal lengths, Bradley-Terry for several systems."""

    preferences: str | None = None
    """File of stored judgements: analysed, nobody is asked."""
    gamed: str | None = None
    """AlpacaEval's df_gamed.csv, for its own form of length control."""
    results: Sequence[str] = ()
    """Files of tokenq search, a system each: NAME=FILE; of two, the second is the baseline."""
    judge: str | None = None
    """Judge: verifier (true answers of --prompts or --task), reward_model, implicit (β log π/π_ref of --judge-run), ask
    (a person, who fills in a file of comparisons), FILE.py:FUNCTION (prompts, responses → their rewards), or the name
    of a chat model behind an OpenAI-compatible endpoint; OPENAI_BASE_URL and OPENAI_API_KEY say which.
    Default: the one that --reward-model, --judge-run, --prompts or --task asks for."""
    template: str | None = None
    """File with the question that a chat model is asked, instead of the project's own."""
    answers: str = "judge-answers.jsonl"
    """File that keeps what a chat model or a person has said, so that nothing is asked twice."""
    concurrency: int = 8
    """Questions under way at once."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        super().check()
        if (self.preferences is None) == (not self.results):
            raise UserError("There is nothing to judge, or too much.", "Give --preferences FILE, or --results A=… B=….")
        if not self.results:
            return
        hint = "Name one: --judge MODEL, --judge ask, --reward-model, --judge-run, or --prompts with --answer."
        if len(self._judges()) != 1:
            raise UserError("There is no judge, or two.", hint)
        for error in (*self.judge_lacks(self.judged_by), *self._lacks(), *self.truth_lacks()):
            raise error

    @property
    def judged_by(self) -> str:
        """The judge by its name."""
        return next(iter(self._judges()))

    def _judges(self) -> set[str]:
        """Return every judge that is asked for, by name or by what only that one needs."""
        truth = self.task if self.task is not None else self.prompts or None
        given = {"reward_model": self.reward_model, "implicit": self.judge_run, "verifier": truth}
        named = set() if self.judge is None else {self.judge}
        return named | {name for name, value in given.items() if value is not None}

    def _lacks(self) -> list[UserError]:
        found = []
        if self.judged_by == "verifier" and bool(self.prompts) == (self.task is not None):
            found.append(UserError("--judge verifier needs true answers.", "Give --prompts FILE, or a --task."))
        if self.judged_by == "implicit" and self.judge_run is None:
            hint = "Name a finished run: --judge-run runs/dpo."
            found.append(UserError("--judge implicit without a --judge-run.", hint))
        return found


@dataclass(frozen=True)
class DensityConfig(ReadEvaluation):
    """Do rewards go by what is said, or by length? Chains of summaries of one length; or the density of answers."""

    data: Sequence[str] = ()
    """Chains: what tokenq densify writes. Without a --policy or --run they are measured and not read."""
    results: Sequence[str] = ()
    """Files of tokenq search, a system each, NAME=FILE: the density of their answers, beside no model."""
    entities: str = "rules"
    """What finds entities: rules, spacy:MODEL (a spaCy model that is installed), or FILE.py:FUNCTION (a text → (start,
    end) of each)."""
    same_length: float = 0.05
    """By what share two steps may differ in length, in words and marks, to be compared."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        Evaluation.check(self)
        given = [bool(self.data), bool(self.results), self.traces is not None]
        if sum(given) != 1 or (self.has_models() and not self.data):
            hint = "Give --data CHAINS (with --policy or --run, or without), --traces FILE, or --results A=… B=…."
            raise UserError("There is nothing to evaluate, or too much.", hint)


TASKS: dict[str, type[Evaluation]] = {
    "preference": PreferenceConfig,
    "localisation": LocalisationConfig,
    "first-error": FirstErrorConfig,
    "turns": TurnsConfig,
    "best-of-n": BestOfNConfig,
    "generation": GenerationConfig,
    "kl-frontier": FrontierConfig,
    "win-rate": WinRateConfig,
    "density": DensityConfig,
}
"""Every evaluation by the name that `tokenq eval` takes."""
