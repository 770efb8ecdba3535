"""Preference data with faults that were planted, and how many of them an audit finds.

`python -m bench.planted_faults --rows 3000 --seeds 0 1 2` on rows made of nothing but chance, and with `--data FILE` in
a data set that exists. All rows are a function of the seed. Recall is the share of planted faults of which one finding
holds just the planted rows; precision the share of findings of a kind that are such.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

import tokenq
from tokenq.curation.audit.texts import plain
from tokenq.data.examples import read_examples
from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import read_rows
from tokenq.stats.bootstrap import mean_interval

Row = dict[str, Any]
Rows = list[Row]

EDITS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Shares of words that are changed in near duplicates, in prompt and in responses alike."""

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]


@cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """Return 4,000 words that mean nothing, and their cumulative weights by Zipf's law."""
    draw = random.Random("words")
    words: dict[str, None] = {}
    while len(words) < 4000:
        words["".join(draw.choices(_SYLLABLES, k=draw.choice((1, 2, 2, 3))))] = None
    return list(words), list(accumulate(1 / (place + 2.7) for place in range(4000)))


def _words(draw: random.Random, count: int) -> list[str]:
    words, weights = _vocabulary()
    return draw.choices(words, cum_weights=weights, k=count)


def text(draw: random.Random, sentences: int) -> str:
    """Return sentences of words that mean nothing."""
    said = [_words(draw, draw.randint(5, 14)) for _ in range(sentences)]
    return " ".join(f"{' '.join(one).capitalize()}{draw.choice('...?!')}" for one in said)


def clean_rows(count: int, seed: int) -> Rows:
    """Return pairs without faults: a prompt of one to four sentences, responses of one to eight."""
    draw = random.Random(f"{seed} rows")
    return [
        {
            "prompt": text(draw, draw.randint(1, 4)),
            "chosen": text(draw, draw.randint(1, 8)),
            "rejected": text(draw, draw.randint(1, 8)),
        }
        for _ in range(count)
    ]


@dataclass
class Planted:
    """Rows with faults.

    Attributes:
        rows: all rows, in a drawn order.
        held_out: rows of held-out data.
        truth: kind of finding → the rows of each planted fault; near duplicates by their share of edits too.
    """

    rows: Rows
    held_out: Rows = field(default_factory=list)
    truth: dict[str, list[frozenset[int]]] = field(default_factory=dict)


def edited(draw: random.Random, said: str, share: float) -> str:
    """Return a text in which a share of the words is exchanged, left out or followed by another, one at least.

    The last word stays, so that what was whole is whole.
    """
    words = said.split(" ")
    places = set(draw.sample(range(len(words) - 1), max(1, round(share * (len(words) - 1)))))
    changed: list[str] = []
    for place, word in enumerate(words):
        kind = draw.choice("xdi") if place in places else "k"
        changed += {"k": [word], "x": _words(draw, 1), "d": [], "i": [word, *_words(draw, 1)]}[kind]
    return " ".join(changed) or _words(draw, 1)[0]


def cut(draw: random.Random, said: str) -> str:
    """Return a text that ends in the middle of a sentence, after the first."""
    words = said.split(" ")
    ends = [place for place, word in enumerate(words) if word[-1:] in ".?!"]
    inside = [p for p in range(ends[0] + 1, len(words) - 1) if p not in ends]
    return " ".join(words[: draw.choice(inside) + 1])


def _copied(draw: random.Random, row: Row) -> list[Row]:
    return [row, dict(row)]


def _swapped(draw: random.Random, row: Row) -> list[Row]:
    return [row, {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}]


def _circle(draw: random.Random, row: Row) -> list[Row]:
    third = edited(draw, row["rejected"], 0.5)
    said = [row["chosen"], row["rejected"], third]
    return [{"prompt": row["prompt"], "chosen": said[n], "rejected": said[(n + 1) % 3]} for n in range(3)]


def _same(draw: random.Random, row: Row) -> list[Row]:
    return [{**row, "rejected": f"  {row['chosen'].upper()}\n"}]


def _emptied(draw: random.Random, row: Row) -> list[Row]:
    return [{**row, draw.choice(("chosen", "rejected")): draw.choice(("", " \n"))}]


def _cut(draw: random.Random, row: Row) -> list[Row]:
    side = draw.choice(("chosen", "rejected"))
    return [{**row, side: cut(draw, row[side])}]


def _nearly(share: float) -> Callable[[random.Random, Row], list[Row]]:
    def near(draw: random.Random, row: Row) -> list[Row]:
        return [row, {name: edited(draw, said, share) for name, said in row.items()}]

    return near


PLANTS: Mapping[str, Callable[[random.Random, Row], list[Row]]] = {
    "duplicate": _copied,
    "contradiction": _swapped,
    "cycle": _circle,
    "identical": _same,
    "empty": _emptied,
    "truncated": _cut,
    **{f"near_duplicate {share:g}": _nearly(share) for share in EDITS},
}
"""What is planted, by the name of its kind: a row becomes one or several."""


def planted(rows: Sequence[Row], each: int, seed: int) -> Planted:
    """Return rows with so many faults of each kind, each in rows of its own, and so many prompts held out as well."""
    draw = random.Random(f"{seed} faults")
    order = list(range(len(rows)))
    draw.shuffle(order)
    rich = [place for place in order if _is_rich(rows[place])]
    chosen: dict[int, str] = {}
    for name in PLANTS:
        for _ in range(each):
            chosen[rich.pop()] = name
    shared = [rich.pop() for _ in range(each)]
    made: list[tuple[str, int, Row]] = []
    for place, row in enumerate(rows):
        name = chosen.get(place, "")
        made += [(name, place, one) for one in (PLANTS[name](draw, row) if name else [row])]
    draw.shuffle(made)
    found = Planted([row for _, _, row in made])
    by_fault: dict[tuple[str, int], set[int]] = {}
    for number, (name, place, _) in enumerate(made):
        if name:
            by_fault.setdefault((name, place), set()).add(number)
        if place in shared:
            by_fault.setdefault(("shared_prompt", place), set()).add(number)
    for held, place in enumerate(shared):
        found.held_out.append({**rows[place], "chosen": text(draw, 3), "rejected": text(draw, 3)})
        by_fault["shared_prompt", place].add(len(made) + held)
    for (name, _), numbers in by_fault.items():
        found.truth.setdefault(name, []).append(frozenset(numbers))
    return found


def _is_rich(row: Row) -> bool:
    """Return whether faults can be planted in a row: each response goes on after a first sentence of several words."""
    sides = [row["chosen"], row["rejected"]]
    return all(len(one.split(" ")) >= 12 and one[-1:] in ".?!" and _goes_on(one) for one in sides)


def _goes_on(said: str) -> bool:
    words = said.split(" ")
    ends = [place for place, word in enumerate(words) if word[-1:] in ".?!"]
    return any(place not in ends for place in range(ends[0] + 1, len(words) - 1))


@dataclass(frozen=True)
class Found:
    """What became of the faults of a kind.

    Attributes:
        hits: 1 for each planted fault that was found, 0 for each that was not.
        right: 1 for each finding that was planted, 0 for each other.
    """

    hits: list[int]
    right: list[int]


def compared(data: Planted, findings: Sequence[Any]) -> dict[str, Found]:
    """Return what became of the planted faults, and which findings are none of them, by kind."""
    kinds = {name: name.partition(" ")[0] for name in data.truth}
    held = {kind: {frozenset(one.rows) for one in findings if one.kind == kind} for kind in kinds.values()}
    # An exact copy is nearly the same too.
    expected = {kind: {rows for name in kinds if kinds[name] == kind for rows in data.truth[name]} for kind in held}
    expected.get("near_duplicate", set()).update(data.truth.get("duplicate", ()))
    return {
        name: Found(
            [int(rows in held[kind]) for rows in data.truth[name]],
            [int(rows in expected[kind]) for rows in held[kind]],
        )
        for name, kind in kinds.items()
    }


def table(found: Sequence[Mapping[str, Found]]) -> Iterator[str]:
    """Yield the lines of a table over several seeds."""
    yield "| planted | faults | recall | findings of the kind | precision |"
    yield "|---|--:|--:|--:|--:|"
    for name in (*PLANTS, "shared_prompt"):
        hits = np.array([hit for one in found for hit in one[name].hits], float)
        right = np.array([hit for one in found for hit in one[name].right], float)
        cells = [f"{len(hits)}", shown(hits), f"{len(right)}", shown(right)]
        yield f"| {name} | {' | '.join(cells)} |"


def shown(values: np.ndarray) -> str:
    """Return a share with its interval."""
    if not len(values):
        return "–"
    one = mean_interval(values)
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def main() -> None:
    """Plant, audit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="rows to plant in: JSON lines with chosen and rejected")
    parser.add_argument("--rows", type=int, default=3000, help="rows that are made where there is no --data")
    parser.add_argument("--each", type=int, default=40, help="faults of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    found = []
    for seed in asked.seeds:
        rows = given(asked.data) if asked.data else clean_rows(asked.rows, seed)
        data = planted(rows, asked.each, seed)
        result = tokenq.audit(data.rows, eval_data=data.held_out)
        found.append(compared(data, result.findings))
    print("\n".join(table(found)))


def given(name: str) -> Rows:
    """Return the rows of a file with their prompts apart, as pairs of texts."""
    examples = read_examples(read_rows(parse_source(name)), bad_rows="drop").examples
    return [
        {
            "prompt": plain(one.prompt),
            "chosen": plain(one.responses[0].content).strip(),
            "rejected": plain(one.responses[1].content).strip(),
        }
        for one in examples
    ]


if __name__ == "__main__":
    main()
