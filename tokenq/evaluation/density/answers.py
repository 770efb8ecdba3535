"""The density of stored answers: what goes beside a win rate, so that padding is told from information."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.density.backends import Entities
from tokenq.density.measures import measured
from tokenq.records.results import SearchResult
from tokenq.stats.bootstrap import PLAIN, Resampling, difference_interval, mean_interval
from tokenq.stats.outcome import Cell, Table


def density_of_answers(
    systems: Mapping[str, Sequence[SearchResult]], entities: Entities, named: str, how: Resampling = PLAIN
) -> tuple[Table, dict[str, Any]]:
    """Return entities a token of the best answers of some systems, each less the last one's.

    Args:
        systems: by name, what each found for the same prompts.
        entities: finds entities.
        named: its name, for the table.
        how: resamples over prompts, confidence, seed.
    """
    found = {
        name: [measured([one.candidates[0].text if one.candidates else ""], entities)[0] for one in results]
        for name, results in systems.items()
    }
    densities = {name: np.array([one.density for one in own]) for name, own in found.items()}
    base = list(densities)[-1]
    rows, numbers = list[list[Cell]](), dict[str, Any]()
    for name, own in found.items():
        density = mean_interval(densities[name], None, how)
        apart = None if name == base else difference_interval(densities[name], densities[base], None, how)
        size = mean_interval(np.array([float(one.tokens) for one in own]), None, how)
        rows.append([name, density, apart, size])
        numbers[name] = {"density": density, f"less {base}": apart, "tokens": size}
    note = f"entities by {named}, each once in an answer; tokens are words and marks; differences paired"
    return Table("density of answers", ("system", "entities a token", f"− {base}", "tokens"), rows, note), numbers
