"""Weights of tokens in a training: from a column of the data, from traces of an oracle, or of the policy itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.core.losses import LossSum
from tokenq.core.token_weights import COLUMN, LIVE
from tokenq.data.encoding import ResponseText
from tokenq.data.examples import ReadResult
from tokenq.data.files.local import Row
from tokenq.data.stretches.weights import given_weights, with_given_weights, with_weights
from tokenq.data.tokenize import TokenizedData
from tokenq.errors import UserError, unknown_name
from tokenq.evaluation.readouts import READOUTS
from tokenq.options import WeightOptions
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.trace_files import read_traces
from tokenq.records.traces import TokenTrace

Floats = NDArray[np.float64]

_READOUT = "readout:"

_ROLES = ("chosen", "rejected")


def contrastive(trace: TokenTrace, role: str, options: Mapping[str, float]) -> Floats:
    """Return k exp(±μ clamp(c, L, U)) of every token, c = log π₊ − log π₋: TIS-DPO, arXiv 2410.04350.

    + in chosen and − in rejected responses, so that good tokens of the one and bad tokens of the other count most. (The
    authors' code orders tokens so, and scales their ranks.)

    Args:
        trace: of a good policy against a bad one.
        role: of the response.
        options: μ `mu`, k `scale`, L `low`, U `high`.
    """
    trace.totals.given("logp")
    contrast = np.nan_to_num(trace.tokens.columns["logp"] - trace.tokens.columns["ref_logp"])
    sign = options["mu"] if role == "chosen" else -options["mu"]
    return np.asarray(options["scale"] * np.exp(sign * contrast.clip(options["low"], options["high"])))


def most_telling(readout: str, trace: TokenTrace, role: str, options: Mapping[str, float]) -> Floats:
    """Return 1 for a fraction of the tokens, 0 for others: the least suspicious of chosen, the most of rejected ones.

    By the implicit reward of an oracle these are the tokens of SePO, arXiv 2408.13518. Equal ones count from the first.

    Args:
        readout: a key of `READOUTS`.
        trace: of an oracle against its reference.
        role: of the response.
        options: `fraction` of its tokens, one at least.
    """
    written = trace.tokens.written
    suspicion = READOUTS[readout](trace)
    order = np.argsort(suspicion if role == "chosen" else -suspicion, kind="stable")
    count = max(1, round(options["fraction"] * len(order)))
    own = np.zeros(len(order))
    own[order[:count]] = 1.0
    weights = np.zeros(len(written))
    weights[written] = own
    return weights


@dataclass(frozen=True)
class Estimator:
    """A way to weigh the tokens of a trace.

    Attributes:
        weigh: (trace, role of the response, options) → a weight for each token.
        options: its parameters with their defaults.
    """

    weigh: Callable[[TokenTrace, str, Mapping[str, float]], Floats]
    options: Mapping[str, float] = field(default_factory=dict)


ESTIMATORS: dict[str, Estimator] = {
    "contrast": Estimator(contrastive, {"mu": 1.0, "scale": 1.0, "low": -0.5, "high": 1.5}),
    **{name: Estimator(partial(most_telling, name), {"fraction": 0.3}) for name in READOUTS},
}
"""Every way to weigh tokens by traces, by the name that `readout:NAME` has for it."""


@dataclass(frozen=True)
class Weighting:
    """What tokens count, as it was asked for.

    Attributes:
        asked: the settings.
    """

    asked: WeightOptions

    @property
    def readout(self) -> str | None:
        """The name behind `readout:`, None for a column of the data."""
        name = self.asked.token_weights or ""
        return name.removeprefix(_READOUT) if name.startswith(_READOUT) else None

    @property
    def column(self) -> str | None:
        """The column of the data that holds weights, None where something else says them."""
        return self.asked.token_weights if self.readout is None else None

    @property
    def source(self) -> str:
        """What a `Scene` is told: "" for no weights."""
        if self.asked.token_weights is None:
            return ""
        return str(self.readout) if self.readout in LIVE else COLUMN

    @property
    def options(self) -> dict[str, float]:
        """The parameters of the read-out."""
        return {**ESTIMATORS[str(self.readout)].options, **self.asked.token_weight_options}

    def check(self, loss: LossSum, name: str) -> None:
        """Refuse what does not go with the loss, or does not go together.

        Args:
            loss: that is trained with.
            name: what messages call it.

        Raises:
            UserError: names the flag.
        """
        if self.asked.token_weights is None:
            return
        if not loss.has_weights:
            raise UserError(
                f"--token-weights is given, and loss {name!r} has no weights of tokens.",
                "Take a loss of pairs of responses, such as dpo or simpo, that does not go by turns or steps.",
            )
        if self.readout is not None and self.readout not in {*LIVE, *ESTIMATORS}:
            raise unknown_name("read-out of --token-weights", self.readout, [*LIVE, *ESTIMATORS])
        traced = self.readout in ESTIMATORS
        if traced and self.asked.token_traces is None:
            raise UserError(
                f"--token-weights {self.asked.token_weights} needs traces, and there are none.",
                "Score the data (tokenq score --policy ORACLE --reference ITS_REFERENCE --output traces.jsonl), then "
                "add --token-traces traces.jsonl.",
            )
        if not traced and self.asked.token_traces is not None:
            raise UserError(f"--token-weights {self.asked.token_weights} reads no --token-traces.", "Leave them out.")
        self._check_options()

    def _check_options(self) -> None:
        known = ESTIMATORS[self.readout].options if self.readout is not None and self.readout in ESTIMATORS else {}
        for name, number in self.asked.token_weight_options.items():
            if name not in known:
                raise unknown_name(f"option of --token-weights {self.asked.token_weights}", name, known)
            limit, says = _LIMITS.get(name, (math.isfinite, "a finite number"))
            if not limit(number):
                raise UserError(f"--token-weight-options {name} is {number:g}.", f"It must be {says}.")

    def read(self, read: Callable[[Sequence[Row]], ReadResult]) -> Callable[[Sequence[Row]], ReadResult]:
        """Return a reader of rows that keeps their weights too."""
        column = self.column
        if column is None:
            return read

        def reads(rows: Sequence[Row]) -> ReadResult:
            found = read(rows)
            return replace(found, examples=with_given_weights(found.examples, rows, column))

        return reads

    def weigh(self, data: TokenizedData) -> Sequence[TokenGroup]:
        """Return the groups with the weights of their tokens.

        Raises:
            UserError: a response has none, or those of other tokens.
        """
        if self.column is not None:
            return given_weights(data)
        weigh, options = ESTIMATORS[str(self.readout)].weigh, self.options
        path = Path(str(self.asked.token_traces))
        return with_traced_weights(data, path, lambda trace, role: weigh(trace, role, options))


_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "scale": (lambda value: 0 < value < math.inf, "a finite number above 0"),
}
"""What parameters of read-outs may be; others are any finite numbers."""


def with_traced_weights(data: TokenizedData, path: Path, weigh: Callable[..., Floats]) -> list[TokenGroup]:
    """Return the groups with weights from traces of the same texts, and 1 for what is only read beside a pair.

    Args:
        data: tokenised with its texts.
        path: what `tokenq score --output` wrote of this data.
        weigh: (trace, role) → a weight for each token.

    Raises:
        UserError: a response is not in the traces, or tokenised otherwise there.
    """
    traces = {(trace.prompt, _ids(trace)): trace for trace in read_traces(path)}

    def weighted(group: TokenGroup, response: TokenResponse, text: ResponseText) -> TokenResponse:
        if response.role not in _ROLES:
            return with_weights(response, np.ones(len(response.ids)), group.where)
        trace = traces.get((text.prompt, tuple(response.ids.tolist())))
        if trace is None:
            raise UserError(
                f"{group.where}: {path} holds no trace of one of its responses with the same tokens.",
                "Score this very data, with models of this tokenizer and the same --max-length and --style.",
            )
        return with_weights(response, weigh(trace, response.role), group.where)

    return [
        replace(group, responses=tuple(weighted(group, *both) for both in zip(group.responses, texts, strict=True)))
        for group, texts in zip(data.groups, data.texts, strict=True)
    ]


def _ids(trace: TokenTrace) -> tuple[Any, ...]:
    return tuple(trace.tokens.columns["id"].tolist())
