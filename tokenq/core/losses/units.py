"""The kinds of rows that losses learn from, one record each: which responses count, and what is read off a model.

To add a kind: write its functions, add a row to `UNITS`, and a row to `SELECTIONS` of `tokenq/data/selection.py`, which
says what is asked of the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenq.core.losses.inputs import Scene, candidates, heaviest
from tokenq.core.losses.metrics import Sums, sums_of
from tokenq.core.losses.metrics.policies import rollout_metrics
from tokenq.core.losses.metrics.prms import RIGHT
from tokenq.core.packing import last_token, step_ends
from tokenq.core.tensors import Actions, PairValues, TokenLogps
from tokenq.records.examples import Group, Reply, TokenResponse

Output = Literal["logps", "rewards"]
"""The output of a model under training: log-probs of tokens, or the numbers of a head on its hidden states."""


class Reading(NamedTuple):
    """A kind of row under one kind of model.

    Attributes:
        count: how many values a loss has in a batch. (A loss of demonstrations counts tokens.)
        arguments: (scene, log-probs of the policy and, for losses that take it, of the reference, responses that the
            loss sees) → what a loss is called with before its inputs.
        metrics: the numbers that everybody wants to see.
        rated: attribute → (output, rating) of responses, for what an evaluation says of all of them together.
    """

    count: Callable[[Actions], int]
    arguments: Callable[[Scene, Sequence[TokenLogps], Tensor], Sequence[Any]]
    metrics: Callable[[Scene], Sums]
    rated: Callable[[Scene], Mapping[str, list[list[float]]]] = lambda scene: {}


class Guest(NamedTuple):
    """What losses of a kind learn from where another kind's data are trained on, as in a sum with a loss of that kind.

    Attributes:
        rows: (the other kind, actions) → the responses that they see.
        values: (actions, those responses) → how many values they have.
    """

    rows: Callable[["Unit", Actions], Tensor]
    values: Callable[[Actions, Tensor], int]


@dataclass(frozen=True)
class Unit:
    """A kind of row, for which a loss has one value.

    Attributes:
        name: its key in `UNITS`.
        words: its name in messages.
        readings: by the output of the model.
        selection: what is asked of the data, a key of `SELECTIONS` of `tokenq/data/selection.py`; its name where empty.
            Losses of units that ask for the same can be added.
        noun: what --batch-size counts. A process reward model counts solutions, whatever their steps.
        account: the same among the counts of a `DataSummary`.
        seen: the responses that are learnt from, without those that are only read beside them.
        imitated: the responses that a loss of demonstrations takes of such data.
        is_example: whether a response counts as an example, where responses are counted.
        guest: how its losses learn from any other kind's data; None where they learn from their own alone.
        read_at: the tokens at which a reward model is read.
        column: (actions, [S, …] numbers of every response, responses that the loss sees) → what a loss takes of them.
        sides: rows of responses by what metrics call them.
        is_compared: whether these sides are two, and row n of one stands against row n of the other.
    """

    name: str
    words: str
    readings: Mapping[Output, Reading]
    selection: str = ""
    noun: str = "responses"
    account: str = "responses"
    seen: Callable[[Actions], Tensor] = Actions.every
    imitated: Callable[[Actions], Tensor] = Actions.every
    is_example: Callable[[Reply], bool] = lambda response: True
    guest: Guest | None = None
    read_at: Callable[[TokenResponse], NDArray[np.bool_]] = last_token
    column: Callable[[Actions, Tensor, Tensor], Any] = lambda actions, numbers, rows: numbers[rows]
    sides: Callable[[Actions], Mapping[str, Tensor]] = lambda actions: {"responses": actions.every()}
    is_compared: bool = False

    @property
    def asks(self) -> str:
        """The selection of the data."""
        return self.selection or self.name

    def size(self, group: Group) -> int:
        """Return the number of examples in a group: single responses count one by one, pairs and rankings are whole."""
        return len(self.examples(group)) if self.noun == "responses" else 1

    def examples(self, group: Group) -> list[int]:
        """Return the places of the responses that are examples; others are only read beside them."""
        return [place for place, response in enumerate(group.responses) if self.is_example(response)]


def _pair_arguments(scene: Scene, models: Sequence[TokenLogps], rows: Tensor) -> Sequence[Any]:
    return [model.pairs(scene.actions.pairs) for model in models]


def _response_arguments(scene: Scene, models: Sequence[TokenLogps], rows: Tensor) -> Sequence[Any]:
    return [model.select(rows) for model in models]


def _reward_arguments(scene: Scene, models: Sequence[TokenLogps], rows: Tensor) -> Sequence[Any]:
    """Return the rewards [P] of chosen and of rejected responses."""
    return scene.actions.pad(_rewards(scene)[:, 0]).sums()[scene.actions.pairs].unbind(1)


def _rewards(scene: Scene) -> Tensor:
    if scene.outputs.rewards is None:
        raise ValueError("the model gives no rewards")
    return scene.outputs.rewards


def _response_metrics(scene: Scene) -> Sums:
    found = {"logps/responses": scene.policy.sums().detach(), "response_length": scene.policy.lengths()}
    return sums_of(found)


def _rewarded_metrics(scene: Scene) -> Sums:
    rewards = {} if scene.rewards is None else {"rewards/responses": scene.rewards}
    return _response_metrics(scene) | sums_of(rewards)


def _written_metrics(scene: Scene) -> Sums:
    return _response_metrics(scene) | rollout_metrics(scene)


def _pair_metrics(scene: Scene) -> Sums:
    return _two_metrics(scene, scene.actions.pairs)


def _ranked_metrics(scene: Scene) -> Sums:
    """Return the metrics of the best and the worst of each ranking, as of a pair."""
    return _two_metrics(scene, torch.stack([*_by_role(scene.actions).values()], 1))


def _two_metrics(scene: Scene, pairs: Tensor) -> Sums:
    totals, lengths = scene.policy.sums().detach()[pairs], scene.policy.lengths()[pairs]
    means = totals / lengths.clamp(min=1)
    found = {
        "logps/chosen": totals[:, 0],
        "logps/rejected": totals[:, 1],
        "logps/accuracies": totals[:, 0] > totals[:, 1],
        "logps/mean_accuracies": means[:, 0] > means[:, 1],
        "response_length/chosen": lengths[:, 0],
        "response_length/rejected": lengths[:, 1],
    }
    return sums_of(found | _two_rewards(scene, pairs))


def _two_rewards(scene: Scene, pairs: Tensor) -> dict[str, Tensor]:
    if scene.rewards is None:
        return {}
    chosen, rejected = scene.rewards[pairs].unbind(1)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": chosen > rejected,
        "rewards/margins": chosen - rejected,
    }


def _labelled_metrics(scene: Scene) -> Sums:
    found: dict[str, Tensor] = {}
    totals, lengths = scene.policy.sums().detach(), scene.policy.lengths()
    sides = _by_role(scene.actions)
    for name, rows in sides.items():
        found |= {f"logps/{name}": totals[rows], f"response_length/{name}": lengths[rows]}
    if scene.rewards is not None:
        found |= {f"rewards/{name}": scene.rewards[rows] for name, rows in sides.items()}
    return sums_of(found)


def _right(actions: Actions) -> Tensor:
    """Return the responses that came to what they should."""
    return torch.nonzero(actions.response_columns["outcomes"] > RIGHT)[:, 0]


def _above_mean(actions: Actions) -> Tensor:
    """Return the responses of a reward above 0, the mean of normalised ones."""
    rewards = actions.response_columns.get("rewards")
    return actions.every() if rewards is None else torch.nonzero(rewards > 0)[:, 0]


def _above_baseline(actions: Actions) -> Tensor:
    """Return the responses whose advantages are above 0 in sum."""
    advantages = actions.token_columns.get("advantages")
    if advantages is None:
        return actions.every()
    return torch.nonzero(actions.pad(advantages).sums() > 0)[:, 0]


def _rated(scene: Scene) -> dict[str, list[list[float]]]:
    """Return (output, rating) of every response that was rated on an attribute."""
    rewards, ratings = _rewards(scene).detach(), scene.column("ratings")
    known, both = ~torch.isnan(ratings), torch.stack((rewards, ratings.to(rewards)), 2)
    return {name: both[known[:, i], i].tolist() for i, name in enumerate(scene.attributes)}


def _rating_metrics(scene: Scene) -> Sums:
    rewards, ratings = _rewards(scene).detach(), scene.column("ratings")
    known = ~torch.isnan(ratings)
    errors = (rewards - ratings.nan_to_num().to(rewards)).square() * known
    return {f"mse/{name}": (errors[:, i].sum(), int(known[:, i].sum())) for i, name in enumerate(scene.attributes)}


def _step_metrics(scene: Scene) -> Sums:
    values, right = _rewards(scene).detach()[:, 0], scene.column("step_labels") == 1
    found = {"chosen": values[right], "rejected": values[~right], "accuracies": (values > 0) == right}
    return sums_of({f"rewards/{name}": value for name, value in found.items()})


def _sided(actions: Actions) -> Tensor:
    return actions.of_role("chosen", "rejected")


def _chosen(actions: Actions) -> Tensor:
    return actions.of_role("chosen")


def _by_role(actions: Actions) -> dict[str, Tensor]:
    return {"chosen": actions.of_role("chosen"), "rejected": actions.of_role("rejected")}


def _pairs(actions: Actions) -> int:
    return len(actions.pairs)


def _places(actions: Actions) -> int:
    return len(actions.responses)


def _ratings(actions: Actions) -> int:
    return int((~torch.isnan(actions.response_columns["ratings"])).sum())


_PAIR_REWARDS = Reading(_pairs, _reward_arguments, lambda scene: sums_of(_two_rewards(scene, scene.actions.pairs)))
_RATED = Reading(_ratings, lambda scene, models, rows: [_rewards(scene)], _rating_metrics, _rated)
_WEIGHED = Reading(lambda actions: len(candidates(actions)), _response_arguments, _written_metrics)
_STEPS = Reading(_places, lambda scene, models, rows: [_rewards(scene)[:, 0]], _step_metrics)

_KINDS = (
    Unit(
        "pairs",
        "pairs",
        {"logps": Reading(_pairs, _pair_arguments, _pair_metrics), "rewards": _PAIR_REWARDS},
        noun="pairs",
        account="pairs",
        seen=lambda actions: actions.pairs.flatten(),
        imitated=lambda actions: actions.pairs[:, 0],
        column=lambda actions, numbers, rows: PairValues(*(numbers[side] for side in actions.pairs.unbind(1))),
        sides=lambda actions: {"chosen": actions.pairs[:, 0], "rejected": actions.pairs[:, 1]},
        is_compared=True,
    ),
    Unit(
        "responses",
        "responses",
        {"logps": Reading(_places, _response_arguments, _response_metrics)},
        guest=Guest(
            lambda unit, actions: unit.imitated(actions),
            lambda actions, rows: int(torch.isin(actions.responses, rows).sum()),
        ),
    ),
    Unit(
        "outcomes",
        "responses with an outcome",
        {"logps": Reading(lambda actions: actions.shape[0], _response_arguments, _rewarded_metrics)},
        selection="rewarded",
        imitated=_right,
        guest=Guest(lambda unit, actions: unit.seen(actions), lambda actions, rows: len(rows)),
    ),
    Unit(
        "labelled",
        "responses with a label",
        {"logps": Reading(lambda actions: len(_sided(actions)), _response_arguments, _labelled_metrics)},
        seen=_sided,
        imitated=_chosen,
        is_example=lambda response: response.role in ("chosen", "rejected"),
        sides=_by_role,
    ),
    Unit(
        "rewarded",
        "responses with a reward",
        {"logps": Reading(lambda actions: actions.shape[0], _response_arguments, _rewarded_metrics)},
        imitated=_above_mean,
    ),
    Unit(
        "ranked",
        "rankings",
        {"logps": Reading(lambda actions: len(_chosen(actions)), _response_arguments, _ranked_metrics)},
        noun="rankings",
        account="groups",
        imitated=_chosen,
        sides=_by_role,
        is_compared=True,
    ),
    Unit(
        "rollouts",
        "responses with advantages",
        {"logps": Reading(lambda actions: actions.shape[0], _response_arguments, _written_metrics)},
        imitated=_above_baseline,
    ),
    Unit(
        "actions",
        "responses with advantages",
        {"logps": Reading(_places, _response_arguments, _written_metrics)},
        selection="rollouts",
        imitated=_above_baseline,
    ),
    Unit("weighted", "weighted responses", {"logps": _WEIGHED}, noun="prompts", account="groups", imitated=heaviest),
    Unit("rated", "responses with ratings", {"rewards": _RATED}),
    Unit("steps", "steps with a label", {"rewards": _STEPS}, read_at=step_ends),
)
UNITS: dict[str, Unit] = {unit.name: unit for unit in _KINDS}
"""Every kind of row by its name."""
