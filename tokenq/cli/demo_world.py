"""The demonstration in the world of posts: a tiny model from nothing, judged by the true reward.

Demonstrations, then pairs that the model itself wrote, then DPO in three settings; what came of it is read, searched
and judged on posts that nothing was trained on. Every step is a job of tokenq on files that stay in the folder, so
that each can be repeated by hand.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokenq.cli.demo_parts import (
    EVALUATIONS,
    Shown,
    answers,
    first_samples,
    searched,
    settings,
    traces,
    trained,
    training,
)
from tokenq.cli.stages import Stages
from tokenq.evaluate.bootstrap import difference_interval, mean_interval
from tokenq.evaluate.credit import Errors, credit
from tokenq.evaluate.drift import likelihood
from tokenq.evaluate.exact import exact_credit, exact_drift, exact_search
from tokenq.evaluate.outcome import Cell, Table
from tokenq.evaluate.searches import Sweep, searches
from tokenq.evaluate.section import HeatMap, Link, Section
from tokenq.files import folder_aside, write_json_lines
from tokenq.report.html import write_page
from tokenq.results import Candidate, SearchResult, read_results
from tokenq.rundir import provenance
from tokenq.worlds.demo import DemoSettings, demo_model, label_pairs
from tokenq.worlds.gold import GOLD, GoldReward, corrupt, judge
from tokenq.worlds.tldr import Post, write_summary

NEW_TOKENS = 48
"""Most tokens of a summary; a clean one has about 20."""

SAMPLES = 4
"""Samples of each test post by which a policy is judged, and among which errors are looked for."""


@dataclass(frozen=True)
class World:
    """The demonstration's folder, and what it trains on.

    Attributes:
        folder: where everything goes.
        settings: posts, trainings and sizes.
        searches: what the figure of search compares.
    """

    folder: Path
    settings: DemoSettings
    searches: Sequence[str]

    def data(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write rows as JSON lines, and return the file."""
        path = self.folder / "data" / f"{name}.jsonl"
        write_json_lines(path, rows)
        return path

    @property
    def sft(self) -> Path:
        """The policy that learnt from demonstrations: the reference of everything that follows."""
        return self.folder / f"sft{len(self.settings.sft_stages)}" / "policy"

    @property
    def dpo(self) -> Path:
        """The run that learnt from preferences."""
        return self.folder / "dpo"

    @cached_property
    def test_posts(self) -> dict[str, Post]:
        """The posts to summarise, by the name of their prompt."""
        return {str(number): post for number, post in enumerate(self.settings.for_test(), 1)}

    @cached_property
    def test_prompts(self) -> Path:
        """The file of these prompts."""
        return self.data("test", ({"id": name, "prompt": post.prompt} for name, post in self.test_posts.items()))

    def gold(self, result: SearchResult, candidate: Candidate) -> float:
        """Return the true reward of a summary of a test post."""
        return GOLD(self.test_posts[result.id], candidate.text)


def quick_searches() -> list[str]:
    """Return what a quick demonstration searches."""
    return settings((1, 2, 5, 10), (2, 8), (8,))


def all_searches() -> list[str]:
    """Return what the demonstration searches."""
    return settings((1, 2, 3, 5, 10, 20), (2, 4, 8, 16), (4, 16))


def run_world(folder: Path, seed: int, *, quick: bool, stages: Stages) -> Shown:
    """Run the demonstration in the world of posts, and return what it came to."""
    world = World(
        folder,
        DemoSettings.quick(seed) if quick else DemoSettings(seed),
        quick_searches() if quick else all_searches(),
    )
    with stages("learn to summarise from demonstrations"):
        learn(world)
    with stages("write summaries, and have pairs of them labelled"):
        pairs, by_length, held_out = _pairs(world)
    with stages("learn from preferences (DPO)"):
        _dpo(world, "dpo", world.sft, pairs, held_out)
    with stages("the same after SFT on the chosen summaries"):
        chosen = _sft(world, "chosen_sft", world.sft, pairs, "cosine")
        _dpo(world, "chosen_dpo", chosen, pairs, held_out)
    with stages("the same by a labeller who likes length"):
        _dpo(world, "length_dpo", world.sft, by_length)
    with stages("search"):
        search, summary, samples = _search(world)
    with stages("read token by token"):
        sections = [_credit(world, samples), search, _likelihood(world, held_out)]
    return Shown(sections, [summary])


def learn(world: World) -> None:
    """Train a model that knows nothing on demonstrations, stage by stage."""
    model, tokenizer = demo_model(world.settings.seed)
    policy = world.folder / "start"
    with folder_aside(policy) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    for number, (stage, rows) in enumerate(zip(world.settings.sft_stages, world.settings.sft_rows(), strict=True), 1):
        policy = _sft(world, f"sft{number}", policy, world.data(f"demonstrations{number}", rows), stage.schedule)


def _sft(world: World, name: str, model: Path, data: Path, schedule: str) -> Path:
    return trained(
        world.folder / name,
        loss="sft",
        batch_size=world.settings.sft_batch_size,
        learning_rate=world.settings.sft_learning_rate,
        warmup_steps=world.settings.sft_warmup_steps,
        schedule=schedule,
        **_shared(world, model, data),
    )


def _dpo(world: World, name: str, model: Path, data: Path, held_out: Path | None = None) -> None:
    own = world.settings
    steps = round(own.dpo_epochs * own.pair_posts / own.dpo_batch_size)
    trained(
        world.folder / name,
        beta=own.dpo_beta,
        batch_size=own.dpo_batch_size,
        epochs=own.dpo_epochs,
        learning_rate=own.dpo_learning_rate,
        warmup_steps=own.dpo_warmup_steps,
        schedule="cosine",
        reference_store=str(world.folder / "reference"),
        eval_data=() if held_out is None else (str(held_out),),
        eval_steps=max(1, steps // EVALUATIONS),
        **_shared(world, model, data),
    )


def _shared(world: World, model: Path, data: Path) -> dict[str, Any]:
    seed = world.settings.seed
    return {"model": str(model), "data": (str(data),), "seed": seed, "device": "cpu", "dtype": "float32"}


def _pairs(world: World) -> tuple[Path, Path, Path]:
    """Return pairs of summaries by the SFT policy: to train on, the same labelled with a taste for length, held out."""
    own = world.settings
    files = []
    for name, posts in (("pairs", own.for_pairs()), ("held_out", own.held_out())):
        found = answers(
            world.folder / "samples" / f"{name}.jsonl",
            policy=str(world.sft),
            prompts=[str(world.data(f"{name}_posts", ({"prompt": post.prompt} for post in posts)))],
            method="sample",
            n=2,
            **_decoding(world),
        )
        texts = [[candidate.text for candidate in result.candidates] for result in found]
        labelled = (
            {name: GOLD}
            if name == "held_out"
            else {name: GOLD, "length_pairs": GoldReward(length_bonus=own.length_bonus)}
        )
        for file, taste in labelled.items():
            rows = label_pairs(posts, texts, taste, seed=own.seed, temperature=own.label_temperature)
            files.append(world.data(file, rows))
    return files[0], files[1], files[2]


def _decoding(world: World) -> dict[str, Any]:
    return {"max_new_tokens": NEW_TOKENS, "batch_size": 150, "device": "cpu", "seed": world.settings.seed}


def _search(world: World) -> tuple[Section, Table, dict[str, list[tuple[SearchResult, Candidate]]]]:
    """Return the figure of search, the rewards of policy and reference, and samples of both."""
    shared = {"prompts": [str(world.test_prompts)], **_decoding(world)}
    sweeps, greedy, drawn = [], {}, {}
    for name, run in (
        ("a labeller by reward", world.dpo),
        ("a labeller who likes length", world.folder / "length_dpo"),
    ):
        output = world.folder / "search" / run.name
        points = searched(output, world.searches, world.gold, run=str(run), pool=_pool(world), **shared)
        sweeps.append(Sweep(name, points, "gold reward"))
        label = {"dpo": "DPO", "length_dpo": "DPO, length-loving labeller"}[run.name]
        greedy[label] = first_samples(list(read_results(output / "results" / "greedy.jsonl")), 1)
        drawn[label] = first_samples(list(read_results(output / "results" / "pool.jsonl")), SAMPLES)
    for found, method in ((greedy, {"method": "greedy"}), (drawn, {"method": "sample", "n": SAMPLES})):
        path = world.folder / "search" / f"sft_{method['method']}.jsonl"
        found["SFT"] = first_samples(answers(path, policy=str(world.sft), **method, **shared), SAMPLES)
    section = searches(sweeps, exact=exact_search())
    order = ("SFT", "DPO", "DPO, length-loving labeller")
    return section, _rewards(world, {name: (greedy[name], drawn[name]) for name in order}), drawn


def _pool(world: World) -> int:
    return max(int(words.rpartition("=")[2]) for words in world.searches if words.startswith("sample"))


Answers = Sequence[tuple[SearchResult, Candidate]]


def _rewards(world: World, found: Mapping[str, tuple[Answers, Answers]]) -> Table:
    """Return the true rewards of greedy and of sampled summaries, with paired differences to SFT's."""

    def column(of: Answers, value: Any) -> tuple[np.ndarray, list[str]]:
        return np.array([value(*one) for one in of]), [result.id for result, _ in of]

    rows: list[list[Cell]] = []
    first = next(iter(found.values()))
    for place, decoding in enumerate(("greedy", "sampled")):
        base = column(first[place], world.gold)[0]
        for name, both in found.items():
            values, names = column(both[place], world.gold)
            rows.append(
                [
                    f"{name}, {decoding}",
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


def _credit(world: World, samples: Mapping[str, Answers]) -> Section:
    """Return the figure of credit: errors that were put in, the reference's own, and the policy's own."""
    own = world.settings
    posts = own.for_corruption()
    clean = [write_summary(post) for post in posts]
    changed = [corrupt(post, text, seed=own.seed) for post, text in zip(posts, clean, strict=True)]
    kinds = {
        "corrupted": [
            (str(i), post, c.text, [c.fact.span]) for i, (post, c) in enumerate(zip(posts, changed, strict=True))
        ]
    }
    for kind, name in (("reference_errors", "SFT"), ("policy_errors", "DPO")):
        kinds[kind] = _with_errors(world, samples[name])
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


def _likelihood(world: World, held_out: Path) -> Section:
    return likelihood(
        training("without SFT on chosen", world.dpo, held_out, drawn=True, device="cpu"),
        training("after SFT on chosen", world.folder / "chosen_dpo", held_out, drawn=False, device="cpu"),
        exact=exact_drift(),
    )
