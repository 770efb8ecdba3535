"""SteerLM 2 in the world of posts: `python -m bench.steer_study --output runs/steer --seeds 0 1 2`.

Summaries with ratings of three attributes, some of them mistaken, teach a policy to be asked for attributes (SFT behind
the control string), one that is not (the prior P(y|x)), and a reward model of the three. Two rounds of SteerLM 2 go on
from the first; as many steps of the same SFT stand beside them. All are asked for all 64 combinations on posts that
nothing was trained on, and what they write is counted. What is done already is not done again.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import steer_world
from bench.steer_world import GRID, NAMES, SCALE
from tokenq.demo.gold import GOLD
from tokenq.demo.settings import SHORT, sft_rows
from tokenq.demo.steps import answers, trained
from tokenq.demo.tldr import CLEAN, make_posts
from tokenq.files import folder_aside, write_json_lines
from tokenq.jobs.rollout.online import online
from tokenq.jobs.train import train
from tokenq.models.load import hide_progress_bars
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import Estimate, difference_interval, mean_interval
from tokenq.terminal.progress import Progress

NEW_TOKENS = 48
SAMPLES = 10
"""Of each prompt of a round, as in the paper."""

BATCH = 8
"""Prompts of a step."""


class Sizes(NamedTuple):
    """How much of everything there is.

    Attributes:
        short: short posts, from which copying is learnt.
        clean: posts with clean summaries behind them.
        rated: rows with ratings.
        asked: prompts of each round.
        test: posts that everything is measured on.
    """

    short: int = 3000
    clean: int = 3000
    rated: int = 3000
    asked: int = 128
    test: int = 16


SIZES = Sizes()

PLAIN, LONGER = "attribute SFT", "attribute SFT, as many steps more"


def main() -> None:
    """Train everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak of the rounds")
    asked = parser.parse_args()
    hide_progress_bars()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in asked.seeds:
        for name, policy in policies(asked.output / f"seed{seed}", seed, asked.learning_rate, SIZES):
            found.setdefault(name, []).append(judged(asked.output / f"seed{seed}", seed, name, policy))
            print(f"<!-- seed {seed}, {name}: {line(found[name][-1:])} -->", flush=True)
    print_tables(found)


def policies(folder: Path, seed: int, learning_rate: float, sizes: Sizes) -> Iterator[tuple[str, Path]]:
    """Yield what is compared: a name and a policy each, trained where it is not."""
    shared: dict[str, Any] = {"device": "cpu", "dtype": "float32", "seed": seed}
    sft = {**shared, "loss": "sft", "batch_size": 8, "warmup_steps": 20, "learning_rate": 3e-3}
    start = copier(folder.parent / "base", sizes, {**sft, "seed": 0})
    file = str(_written(folder / "data" / "rated.jsonl", steer_world.rows(sizes.rated, seed)))
    control = {"condition_on": NAMES, "condition_scale": SCALE}
    rated = {"model": str(start), "data": (file,), "schedule": "cosine"}
    prior = trained(folder / "prior", **rated, **sft, epochs=2)
    policy = trained(folder / "attribute_sft", **rated, **control, **sft, epochs=3)
    yield PLAIN, policy
    judge = RunDir(folder / "ratings")
    if not judge.reward_model.exists():
        with Progress(100) as progress:
            more = {"loss": "regression", "attributes": NAMES, "output": judge.path, "learning_rate": 2e-3, "epochs": 4}
            train(listener=progress, resume=True, keep_checkpoints=0, **{**sft, **rated, **more})
    run = rounds(folder, seed, policy, prior, judge.reward_model, learning_rate, sizes)
    yield "SteerLM 2, one iteration", run.checkpoint(run.steps()[0])
    yield "SteerLM 2, two iterations", run.policy
    steps = run.steps()[-1]
    longer = {**sft, "learning_rate": learning_rate, "batch_size": 32, "warmup_steps": 0}
    more = {"schedule": "linear", "max_steps": steps, "data": (file,), "model": str(policy)}
    yield LONGER, trained(folder / "longer", **{**longer, **more}, **control)


def copier(folder: Path, sizes: Sizes, sft: Mapping[str, Any]) -> Path:
    """Return a policy that copies facts out of posts and knows of no attribute: all seeds begin from it."""
    data = {
        "short": make_posts(sizes.short, seed=0, difficulty=SHORT),
        "clean": make_posts(sizes.clean, seed=1, difficulty=steer_world.POSTS),
    }
    start = _start(folder)
    for name, posts in data.items():
        file = _written(folder / "data" / f"{name}.jsonl", sft_rows(posts, CLEAN))
        more = {"data": (str(file),), "schedule": "constant_with_warmup"}
        start = trained(folder / name, model=str(start), **{**sft, **more})
    return start


def _start(folder: Path) -> Path:
    place = folder / "start"
    if not place.exists():
        network, tokenizer = steer_world.model(0)
        with folder_aside(place) as aside:
            network.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    return place


def _written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if not path.exists():
        write_json_lines(path, rows)
    return path


def rounds(
    folder: Path, seed: int, policy: Path, prior: Path, judge: Path, learning_rate: float, sizes: Sizes
) -> RunDir:
    """Return the run of two rounds of SteerLM 2, played where it was not."""
    run = RunDir(folder / "steerlm")
    if not run.policy.exists():
        draw = np.random.default_rng([seed, 7])
        asked = [
            {"id": str(i), "prompt": post.prompt, **GRID[int(draw.integers(len(GRID)))]}
            for i, post in enumerate(steer_world.posts(2 * sizes.asked, seed, "rounds"))
        ]
        with Progress(100) as progress:
            online(
                str(policy),
                [str(_written(folder / "data" / "asked.jsonl", asked))],
                run.path,
                method="steerlm",
                reference=str(prior),
                reward_model=str(judge),
                rounds=2,
                prompts_per_round=sizes.asked,
                epochs=2,
                samples=SAMPLES,
                max_new_tokens=NEW_TOKENS,
                batch_size=BATCH,
                learning_rate=learning_rate,
                keep_checkpoints=2,
                resume=True,
                device="cpu",
                seed=seed,
                listener=progress,
            )
    return run


def judged(folder: Path, seed: int, name: str, policy: Path) -> dict[str, Any]:
    """Return what a policy writes for all combinations on the test posts: [posts, 64, 3] measured, and true rewards."""
    posts = steer_world.posts(SIZES.test, seed, "test")
    asked = [
        {"id": f"{i}-{j}", "prompt": post.prompt, **levels}
        for i, post in enumerate(posts)
        for j, levels in enumerate(GRID)
    ]
    results = answers(
        folder / "judged" / f"{name.replace(' ', '_').replace(',', '')}.jsonl",
        policy=str(policy),
        prompts=[str(_written(folder / "data" / "test.jsonl", asked))],
        method="sample",
        n=1,
        max_new_tokens=NEW_TOKENS,
        batch_size=64,
        device="cpu",
        dtype="float32",
        seed=seed,
    )
    texts = {result.id: result.candidates[0].text for result in results}
    own = [[steer_world.measured(post, texts[f"{i}-{j}"]) for j in range(len(GRID))] for i, post in enumerate(posts)]
    gold = [[GOLD(post, texts[f"{i}-{j}"]) for j in range(len(GRID))] for i, post in enumerate(posts)]
    measured = np.array([[[one[name] for name in NAMES] for one in row] for row in own])
    return {"measured": measured, "gold": np.array(gold), "name": name}


ASKED = np.array([[levels[name] for name in NAMES] for levels in GRID], float)
"""[64, 3] what is asked for."""

BEST = [place for place, levels in enumerate(GRID) if levels["facts"] == SCALE[1] and levels["length"] == SCALE[0]]
"""The combinations whose summaries earn most: all facts, and no word besides."""


def slopes(measured: np.ndarray) -> np.ndarray:
    """Return [posts, 3, 3]: by how much the column's attribute moves with each level asked of the row's."""
    centred = ASKED - ASKED.mean(0)
    found: np.ndarray = np.einsum("ca,pcb->pab", centred, measured) / (centred**2).sum(0)[None, :, None]
    return found


def print_tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print the matrices, and what is written beside what was asked for."""
    print("| policy | asked | facts | length | tone |\n|---|---|--:|--:|--:|")
    for name, seeds in found.items():
        each = np.concatenate([slopes(one["measured"]) for one in seeds])
        units = [f"{seed} {post}" for seed, one in enumerate(seeds) for post in range(len(one["measured"]))]
        for a, asked in enumerate(NAMES):
            cells = [shown(mean_interval(each[:, a, b], units)) for b in range(len(NAMES))]
            print(f"| {name} | {asked} | {' | '.join(cells)} |")
    print("\n| policy | distance | facts | length | tone | all three right | true reward at facts 3, length 0 |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, seeds in found.items():
        print(f"| {name} | {line(seeds)} |")
    print("\n| distance of | − attribute SFT | − attribute SFT, as many steps more |\n|---|--:|--:|")
    off = {name: np.concatenate([distances(one) for one in seeds]) for name, seeds in found.items()}
    posts = [f"{seed} {post}" for seed, one in enumerate(found[PLAIN]) for post in range(len(one["measured"]))]
    for name in (name for name in found if name.startswith("SteerLM")):
        both = [shown(difference_interval(off[name], off[other], posts)) for other in (PLAIN, LONGER)]
        print(f"| {name} | {' | '.join(both)} |")


def distances(one: Mapping[str, Any]) -> np.ndarray:
    """Return [posts] mean Σ |measured − asked| over the attributes."""
    found: np.ndarray = np.abs(one["measured"] - ASKED).sum(2).mean(1)
    return found


def line(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Return a policy's cells: mean |measured − asked|, in all and by attribute, hits, and the true reward."""
    off = np.concatenate([np.abs(one["measured"] - ASKED) for one in seeds])
    gold = np.concatenate([one["gold"] for one in seeds])
    each = [off.sum(2).mean(1), *(off[:, :, b].mean(1) for b in range(len(NAMES))), (off.sum(2) == 0).mean(1)]
    return " | ".join(shown(mean_interval(values)) for values in [*each, gold[:, BEST].mean(1)])


def shown(estimate: Estimate) -> str:
    """Return an estimate with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
