"""AlpacaEval 2's length-controlled win rate, the full form, for judgements of AlpacaEval's own 805 instructions.

Preferences are explained by the length difference, the difficulty of the instruction and a constant, and the fit is
held in place by AlpacaEval's gamed baselines: one model that was told to be verbose, and to be concise. It needs their
rows (`df_gamed.csv` of the data set tatsu-lab/alpaca_eval); without them there is the minimal form of
`tokenq.stats.length_control`, which gives other numbers. Nothing here reads files. Needs scikit-learn.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tokenq.errors import UserError
from tokenq.stats.bootstrap import Floats, Resampling, intervals
from tokenq.stats.length_control import LengthControlled, standardised
from tokenq.stats.win_rate import Preferences, checked, floats

ALPACA_EVAL_2 = "AlpacaEval 2: length, difficulty of the instruction, and gamed baselines"

GAMED_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
"""The columns of AlpacaEval's `df_gamed.csv` that are read."""

GAMED_WEIGHT = 0.1
"""Weight of a gamed row against a judged one: AlpacaEval's 0.2 shared by its two gamed baselines."""

FEW = Resampling(resamples=500)
"""Every resample is a fit."""

_FOLDS = 5
_STRENGTHS = np.logspace(-4, 4, 10)


@dataclass(frozen=True)
class GamedBaselines:
    """AlpacaEval's judgements of its gamed baselines, and how difficult its instructions are.

    Attributes:
        index: number of the instruction, a row.
        preference: share of the gamed response.
        length: baseline's length minus the response's, in standard deviations.
        difficulty: of the instruction.
    """

    index: NDArray[np.int64]
    preference: Floats
    length: Floats
    difficulty: Floats

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> "GamedBaselines":
        """Return them from the columns of `df_gamed.csv`.

        Raises:
            UserError: a column is missing, or a row is not one of a gamed baseline.
        """
        missing = [name for name in GAMED_COLUMNS if name not in columns]
        if missing:
            raise UserError(
                f"The gamed baselines lack the columns {', '.join(missing)}.",
                "They are those of df_gamed.csv in the data set tatsu-lab/alpaca_eval.",
            )
        if any(str(value) not in ("False", "0") for value in columns["not_gamed_baseline"]):
            raise UserError("A row of the gamed baselines says that it is none.", "Take df_gamed.csv unchanged.")
        numbers = [np.asarray(columns[name], dtype=np.float64) for name in GAMED_COLUMNS[:4]]
        return cls(numbers[0].astype(np.int64), *numbers[1:])

    def difficulties(self, index: Sequence[int]) -> Floats:
        """Return the difficulty of instructions.

        Raises:
            UserError: an instruction is not among them.
        """
        known = dict(zip(self.index[::-1].tolist(), self.difficulty[::-1].tolist(), strict=True))
        unknown = sorted({int(number) for number in index} - known.keys())
        if unknown:
            raise UserError(
                f"{len(unknown)} instructions have no difficulty, instruction {unknown[0]} for one.",
                "AlpacaEval knows that of its own 805 only; for other prompts take the minimal form.",
            )
        return np.array([known[int(number)] for number in index])


def from_alpaca_eval(preferences: Sequence[float | None]) -> Floats:
    """Return AlpacaEval's preferences as shares of its second response, the model's.

    There 1 is the baseline's response, 2 the model's, 0 or 1.5 a draw, and nothing an answer that could not be read.

    Raises:
        UserError: a value is none of these.
    """
    values = floats(preferences)
    shares = np.where(values == 0, 0.5, values - 1)
    wrong = np.flatnonzero((shares < 0) | (shares > 1))
    if len(wrong):
        raise UserError(
            f"preference {wrong[0] + 1} is {values[wrong[0]]:g}: AlpacaEval writes 1 (baseline) to 2 (model), or 0",
            "Shares between 0 and 1 need no conversion.",
        )
    return shares


def alpaca_eval_2(
    preferences: Preferences,
    lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    index: Sequence[int],
    gamed: GamedBaselines,
    how: Resampling = FEW,
) -> LengthControlled:
    """Return the length-controlled win rate as AlpacaEval 2 defines it (Dubois et al. 2024, arXiv 2404.04475).

    Logistic regression without intercept on tanh of the standardised length difference, the instruction's difficulty
    and "is no gamed baseline"; L1 penalty whose strength is chosen by log loss over five folds of prompts; a soft
    preference counts as both outcomes, weighted. The rate is the mean prediction at length difference zero, over all
    rows: those whose judgement was unusable are predicted too, as AlpacaEval does.

    Args:
        preferences: share of the model's response, one a prompt.
        lengths: characters of the model's response.
        baseline_lengths: characters of the baseline's.
        index: number of the instruction in AlpacaEval.
        gamed: rows of `df_gamed.csv`.
        how: resamples of the prompts (each a fit, at the penalty that was chosen for all), confidence, seed.

    Raises:
        UserError: lengths do not fit the preferences, or an instruction is not one of AlpacaEval's.
    """
    values = checked(preferences)
    length = np.tanh(standardised(values, lengths, baseline_lengths))
    difficulty = gamed.difficulties(index)
    if len(difficulty) != len(values):
        raise UserError(
            f"{len(values)} preferences and {len(difficulty)} instructions do not line up.", "Give one each."
        )
    used, one, none = ~np.isnan(values), np.ones(len(values)), np.zeros(len(gamed.index))
    features = np.concatenate(
        [
            np.column_stack([np.tanh(gamed.length), gamed.difficulty, none]),
            np.column_stack([length, difficulty, one])[used],
        ]
    )
    targets = np.concatenate([gamed.preference, values[used]])
    equal = np.column_stack([np.zeros(len(values)), difficulty, one])

    def importance(counts: Floats) -> Floats:
        return np.concatenate([none + GAMED_WEIGHT, counts[used]])

    strength = _chosen_strength(features, targets, importance(one))

    def predicted(counts: Floats) -> Floats:
        return np.asarray(expit(equal @ _penalised(features, targets, importance(counts), strength)))

    def rates(resamples: Floats) -> Floats:
        return np.array([np.average(predicted(counts), weights=counts) for counts in resamples])

    weights = _penalised(features, targets, importance(one), strength)
    predictions = predicted(one)
    interval = intervals(rates, len(values), how)[0]
    return LengthControlled(
        form=ALPACA_EVAL_2,
        n=int(used.sum()),
        unusable=int((~used).sum()),
        win_rate=float(predictions.mean()),
        raw=float(values[used].mean()),
        standard_error=float(predictions.std(ddof=1) / math.sqrt(len(predictions))),
        interval=(interval.low, interval.high),
        weights={"length": -float(weights[0]), "difficulty": float(weights[1]), "constant": float(weights[2])},
    )


def _chosen_strength(features: Floats, targets: Floats, importance: Floats) -> float:
    """Return the inverse penalty with the least mean log loss over the folds, the strongest penalty of equals."""
    from sklearn.model_selection import GroupKFold

    n = len(targets)
    # Both outcomes of a row fall into one fold; the splitter's order of groups is AlpacaEval's too.
    folds = list(GroupKFold(_FOLDS).split(np.zeros(2 * n), groups=np.tile(np.arange(n), 2)))
    losses = np.zeros((len(folds), len(_STRENGTHS)))
    for fold, (train, test) in enumerate(folds):
        kept, held = train[train < n], test[test < n]
        for column, strength in enumerate(_STRENGTHS):
            weights = _penalised(features[kept], targets[kept], importance[kept], strength)
            chance = np.clip(expit(features[held] @ weights), 1e-15, 1 - 1e-15)
            loss = targets[held] * np.log(chance) + (1 - targets[held]) * np.log(1 - chance)
            losses[fold, column] = -(importance[held] * loss).mean()
    return float(_STRENGTHS[losses.mean(axis=0).argmin()])


def _penalised(features: Floats, targets: Floats, importance: Floats, strength: float) -> Floats:
    """Return the L1-penalised weights by liblinear, the solver of the published figures."""
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    version = tuple(map(int, sklearn.__version__.split(".")[:2]))
    lasso: dict[str, Any] = {"l1_ratio": 1.0} if version >= (1, 8) else {"penalty": "l1"}
    model = LogisticRegression(**lasso, C=strength, solver="liblinear", fit_intercept=False, random_state=123)
    outcomes = np.repeat([1, 0], len(targets))
    with warnings.catch_warnings():
        # AlpacaEval stops where the solver stops, too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(
            np.tile(features, (2, 1)),
            outcomes,
            sample_weight=np.concatenate([targets * importance, (1 - targets) * importance]),
        )
    return np.asarray(model.coef_[0], dtype=np.float64)
