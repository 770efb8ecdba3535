"""The demonstration in the world of posts: a tiny model from nothing, judged by the true reward.

Demonstrations, then pairs that the model itself wrote, then DPO in three settings; what came of it is read, searched
and judged on posts that nothing was trained on. Every step is a job of tokenq on files that stay in the folder, so
that each can be repeated by hand.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenq.demo.gold import corrupt, judge
from tokenq.demo.learning import LENGTH, REWARD, World, decoding, dpo, labelled_pairs, learn, sft
from tokenq.demo.processes import After, Tasks, Together
from tokenq.demo.settings import DemoSettings
from tokenq.demo.stages import Stages
from tokenq.demo.steps import (
    DemoReport,
    answers,
    first_samples,
    searched,
    settings,
    traces,
    training,
)
from tokenq.demo.tldr import Post, write_summary
from tokenq.evaluation.sweep import Point
from tokenq.figures.credit import Errors, credit
from tokenq.figures.drift import likelihood
from tokenq.figures.exact import exact_credit, exact_drift, exact_search
from tokenq.figures.searches import Sweep, searches
from tokenq.figures.section import HeatMap, Link, Section
from tokenq.records.results import Candidate, SearchResult, read_results
from tokenq.report.html import write_page
from tokenq.rundir import provenance
from tokenq.stats.bootstrap import difference_interval, mean_interval
from tokenq.stats.outcome import Cell, Table

SAMPLES = 4
"""Samples of each test post by which a policy is judged, and among which errors are looked for."""


def quick_searches() -> list[str]:
    """Return the searches of a quick demonstration."""
    return settings((1, 2, 5, 10), (2, 8), (8,))


def all_searches() -> list[str]:
    """Return the searches of the demonstration."""
    return settings((1, 2, 3, 5, 10, 20), (2, 4, 8, 16), (4, 16))


def run_world(folder: Path, seed: int, *, quick: bool, stages: Stages, together: Together) -> DemoReport:
    """Run the demonstration in the world of posts, and return what it came to.

    Args:
        folder: where everything goes.
        seed: of everything.
        quick: an easier world and fewer posts.
        stages: keeps the seconds of every stage.
        together: does tasks that do not need each other.
    """
    world = World(
        folder,
        DemoSettings.quick(seed) if quick else DemoSettings(seed),
        quick_searches() if quick else all_searches(),
    )
    with stages("learn to summarise from demonstrations"):
        learn(world)
    with stages("write summaries, and have pairs of them labelled"):
        pairs, by_length, held_out = labelled_pairs(world, together)
    with stages("learn from preferences (DPO) in three settings, search, and read token by token"):
        longer, better, _, answered, found, falling = together(_tasks(world, pairs, by_length, held_out))
        search, summary = _search(world, {REWARD: better, LENGTH: longer}, answered)
    return DemoReport([found, search, falling], [summary])


def _tasks(world: World, pairs: Path, by_length: Path, held_out: Path) -> Tasks:
    """Return what is done when there are pairs: the longest first, so that the last to come is short."""
    longer, better = ("DPO by the labeller who likes length, and search", "DPO by the labeller by reward, and search")
    chosen, answered = "DPO after SFT on the chosen summaries", "answers of the SFT policy"
    return {
        longer: partial(_searched_dpo, world, LENGTH, by_length),
        better: partial(_searched_dpo, world, REWARD, pairs, held_out),
        chosen: partial(_after_chosen, world, pairs, held_out),
        answered: partial(_answered, world),
        "credit": After((better, answered), partial(_credit, world)),
        "likelihood": After((better, chosen), partial(_likelihood, world, held_out)),
    }


def _searched_dpo(world: World, run: str, pairs: Path, held_out: Path | None = None) -> list[Point]:
    """Train on pairs, search the test posts in all ways, and return quality against cost."""
    dpo(world, run, world.sft, pairs, held_out)
    output = world.folder / "search" / run
    own = {"run": str(world.folder / run), "prompts": [str(world.test_prompts)], "pool": _pool(world)}
    return searched(output, world.searches, world.gold, **own, **decoding(world))


def _after_chosen(world: World, pairs: Path, held_out: Path) -> None:
    chosen = sft(world, "chosen_sft", world.sft, pairs, "cosine")
    dpo(world, "chosen_dpo", chosen, pairs, held_out)


def _search(
    world: World, points: Mapping[str, Sequence[Point]], answered: tuple["Answers", ...]
) -> tuple[Section, Table]:
    """Return the figure of search, and the rewards of policies and reference."""
    titles = {REWARD: "a labeller by reward", LENGTH: "a labeller who likes length"}
    sweeps = [Sweep(name, points[run], "gold reward") for run, name in titles.items()]
    labels = {REWARD: "DPO", LENGTH: "DPO, length-loving labeller"}
    both = {label: (_found(world, run, "greedy", 1), _drawn(world, run)) for run, label in labels.items()}
    return searches(sweeps, exact=exact_search()), _rewards(world, {"SFT": answered, **both})


def _found(world: World, run: str, name: str, count: int) -> "Answers":
    """Return the first answers to every test post that one of a run's searches found."""
    return first_samples(list(read_results(world.folder / "search" / run / "results" / f"{name}.jsonl")), count)


def _drawn(world: World, run: str) -> "Answers":
    """Return samples of a run by which it is judged."""
    return _found(world, run, "pool", SAMPLES)


def _answered(world: World) -> tuple["Answers", ...]:
    """Return the SFT policy's own answers to the test posts: greedy ones, and samples."""
    shared = {"policy": str(world.sft), "prompts": [str(world.test_prompts)], **decoding(world)}
    return tuple(
        first_samples(answers(world.folder / "search" / f"sft_{own['method']}.jsonl", **own, **shared), SAMPLES)
        for own in ({"method": "greedy"}, {"method": "sample", "n": SAMPLES})
    )


def _pool(world: World) -> int:
    return max(int(words.rpartition("=")[2]) for words in world.searches if words.startswith("sample"))


Answers = Sequence[tuple[SearchResult, Candidate]]


def _rewards(world: World, found: Mapping[str, tuple[Answers, ...]]) -> Table:
    """Return the true rewards of greedy and of sampled summaries, with paired differences to SFT's."""

    def column(of: Answers, value: Any) -> tuple[np.ndarray, list[str]]:
        return np.array([value(*one) for one in of]), [result.id for result, _ in of]

    rows: list[list[Cell]] = []
    first = next(iter(found.values()))
    for place, way in enumerate(("greedy", "sampled")):
        base = column(first[place], world.gold)[0]
        for name, both in found.items():
            values, names = column(both[place], world.gold)
            rows.append(
                [
                    f"{name}, {way}",
                    mean_interval(values, names),
                    None if both is first else difference_interval(values, base, names),
                    mean_interval(*column(both[place], lambda _, candidate: float(len(candidate.token_ids)))),
                ]
            )
    note = (
        f"{len(world.test_posts)} posts that nothing was trained on, {SAMPLES} samples of each; 95 % intervals over "
        "posts, differences paired."
    )
    return Table("true reward of summaries", ("policy", "gold reward", "− SFT", "length"), rows, note)


def _credit(world: World, _: Sequence[Point], answered: tuple[Answers, ...]) -> Section:
    """Return the figure of credit: errors that were put in, the reference's own, and the policy's own."""
    samples = {"reference_errors": answered[-1], "policy_errors": _drawn(world, REWARD)}
    own = world.settings
    posts = own.for_corruption()
    clean = [write_summary(post) for post in posts]
    changed = [corrupt(post, text, seed=own.seed) for post, text in zip(posts, clean, strict=True)]
    kinds = {
        "corrupted": [
            (str(i), post, c.text, [c.fact.span]) for i, (post, c) in enumerate(zip(posts, changed, strict=True))
        ]
    }
    for kind, drawn in samples.items():
        kinds[kind] = _with_errors(world, drawn)
    errors = []
    titles = {
        "corrupted": "errors put in",
        "reference_errors": "the reference's own errors",
        "policy_errors": "the policy's own errors",
    }
    for kind, rows in kinds.items():
        scored = _scored(world, kind, [{"prompt": p.prompt, "completion": t, "errors": w} for _, p, t, w in rows])
        errors.append(Errors(titles[kind], scored, [w for *_, w in rows], [name for name, *_ in rows]))
    first = _scored(world, "clean", [{"prompt": posts[0].prompt, "completion": clean[0]}])
    heat = [
        HeatMap("A correct summary", first[0]),
        HeatMap("The same with one fact made wrong", errors[0].traces[0], errors[0].stretches[0]),
    ]
    pages = [Link(f"heat maps: {one.name}", f"{kind}.html") for one, kind in zip(errors, kinds, strict=True)]
    for one, link in zip(errors, pages, strict=True):
        write_page(world.folder / "report" / link.path, one.traces[:60], one.name, provenance({}, 0, {}))
    return credit(errors, heat, exact=exact_credit(), links=pages)


def _with_errors(world: World, answered: Answers) -> list[tuple[str, Post, str, list[tuple[int, int]]]]:
    """Return (name of the post, post, summary, stretches of its wrong facts) of the summaries that have any."""
    found = []
    for result, candidate in answered:
        post = world.test_posts[result.id]
        wrong = [fact.span for fact in judge(post, candidate.text).wrong]
        if wrong:
            found.append((result.id, post, candidate.text, wrong))
    return found


def _scored(world: World, name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the traces of rows, in order; none of no rows."""
    if not rows:
        return []
    path = world.folder / "read" / f"{name}.traces.jsonl"
    return traces(path, run=str(world.dpo), data=[str(world.data(name, rows))], device="cpu")


def _likelihood(world: World, held_out: Path, *_: object) -> Section:
    return likelihood(
        training("without SFT on chosen", world.dpo, held_out, drawn=True, device="cpu"),
        training("after SFT on chosen", world.folder / "chosen_dpo", held_out, drawn=False, device="cpu"),
        exact=exact_drift(),
    )
