"""The next tokens of choices that are written side by side, drawn by the functions of searches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenq.search.sampling import Dice, draw, filtered
from tokenq.search.settings import Sampling
from tokenq.server.engine.request import Tops


@dataclass(frozen=True)
class Drawing:
    """How the tokens of a request are drawn.

    Attributes:
        sampling: temperature and filters.
        bias: token ids, and what is added to the logit of each; none without.
    """

    sampling: Sampling
    bias: tuple[Tensor, Tensor] | None = field(default=None, compare=False)


def choose(logps: Tensor, rows: Sequence[int], drawings: Sequence[Drawing], dice: Sequence[Dice]) -> list[int]:
    """Return a token for every choice.

    Args:
        logps: [R, V] log π.
        rows: where each choice stands.
        drawings: how its token is drawn.
        dice: its own random numbers.
    """
    alike: dict[tuple[Sampling, bool], list[int]] = {}
    for place, drawing in enumerate(drawings):
        alike.setdefault((drawing.sampling, drawing.bias is not None), []).append(place)
    tokens = [0] * len(rows)
    for (sampling, biased), places in alike.items():
        own = [rows[place] for place in places]
        table, at = _table(logps, own)
        if biased:
            table, at = _biased(logps, own, [drawings[place] for place in places]), list(range(len(own)))
        if sampling.temperature == 0:
            likeliest = table.argmax(-1).tolist()
            found = [likeliest[row] for row in at]
        else:
            found = draw(filtered(table, sampling), at, [dice[place] for place in places])
        for place, token in zip(places, found, strict=True):
            tokens[place] = token
    return tokens


def _table(logps: Tensor, rows: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return the rows that are drawn from, each once, and where each choice finds its own."""
    own = list(dict.fromkeys(rows))
    if len(own) == len(logps):
        return logps, list(rows)
    places = {row: place for place, row in enumerate(own)}
    return logps[torch.tensor(own, device=logps.device)], [places[row] for row in rows]


def _biased(logps: Tensor, rows: Sequence[int], drawings: Sequence[Drawing]) -> Tensor:
    """Return a copy of the row of every choice, with its bias."""
    table = logps[torch.tensor(rows, device=logps.device)]
    for row, drawing in zip(table, drawings, strict=True):
        assert drawing.bias is not None
        ids, added = drawing.bias
        row[ids.to(row.device)] += added.to(row)
    return table


def others(row: Tensor, top: Tops, ref_top: Tops) -> Tops:
    """Return log π of the reference's tokens that are not among the policy's own.

    Args:
        row: [V] log π.
        top: tokens whose log π is known.
        ref_top: tokens of the reference.
    """
    known = dict(top)
    ids = [token for token, _ in ref_top if token not in known]
    return tuple(zip(ids, row[torch.tensor(ids)].tolist(), strict=True)) if ids else ()
