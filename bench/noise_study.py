"""Wrong labels found by policies that never saw them: `python -m bench.noise_study --output runs/noise --seeds 0 1 2`.

Summaries of the world of posts, two of each post by the policy that learnt from demonstrations, are labelled by their
true reward, and a share of the labels is flipped. `tokenq audit --folds` then estimates that share, and its margins say
which labels were flipped; beside it stand the margins of one policy that was trained on all of the pairs, itself with
the flipped labels. What is done already is not done again. `--cells FOLDER` instead reads the margins of folds that
`bench.selection_study --output FOLDER` has trained: its labels are Bradley-Terry draws before they are flipped.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

import tokenq
from tokenq.curation.noise import estimate_noise
from tokenq.demo.gold import GOLD
from tokenq.demo.learning import World, labelled_pairs, learn
from tokenq.demo.settings import DemoSettings
from tokenq.files import JsonLines, write_json_lines
from tokenq.jobs.run import Run
from tokenq.rundir import RunDir
from tokenq.terminal.progress import Progress

RATES = (0.0, 0.2, 0.4)
"""Shares of labels that are flipped."""

FOLDS = 3


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of flips, folds and trainings")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--cells", type=Path, help="folder of the study of selection, whose margins are read instead")
    asked = parser.parse_args()
    if asked.cells is not None:
        print("\n".join(cells_of(asked.cells)))
        return
    if asked.output is None:
        parser.error("--output is needed where policies are trained")
    world = World(asked.output, DemoSettings(0), ())
    if not world.sft.exists():
        learn(world)
    rows = decided(world)
    print(
        "| flipped | seed | pairs | margins below 0 | estimate [95 %] | right, estimated | AUROC of suspicion "
        "| the same of margins in the training data | margins below 0 there |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for rate in asked.rates:
        for seed in asked.seeds:
            print(line(world, rows, rate, seed), flush=True)


def cells_of(folder: Path) -> Iterator[str]:
    """Yield the lines of a table of what the margins of a study of selection say."""
    yield "| cell | pairs | flipped | margins below 0 | estimate [95 %] | right, estimated | AUROC of suspicion |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for place in sorted(folder.glob("*/folds/margins.jsonl")):
        name = place.parent.parent.name
        flipped = [row["flipped"] for row in JsonLines(folder / "data" / f"pairs-{name}.jsonl").read()]
        lines = list(JsonLines(place).read())
        margins = [line["margin"] for line in lines]
        own = [flipped[line["row"]] for line in lines]
        noise = estimate_noise(np.array(margins, float))
        rate, negative = noise.rate, noise.negative
        ends = f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
        yield (
            f"| {name} | {len(lines)} | {np.mean(own):.3f} | {negative.value:.3f} | {ends} | "
            f"{noise.accuracy:.3f} | {auroc(own, margins)} |"
        )


def decided(world: World) -> list[dict[str, str]]:
    """Return the pairs of summaries whose true rewards differ, the better one chosen."""
    path = world.folder / "data" / "pairs.jsonl"
    if not path.exists():
        labelled_pairs(world)
    posts = {post.prompt: post for post in world.settings.for_pairs()}
    found = []
    for row in JsonLines(path).read():
        gap = GOLD(posts[row["prompt"]], row["chosen"]) - GOLD(posts[row["prompt"]], row["rejected"])
        if gap:
            found.append(row if gap > 0 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]})
    return found


def flips(count: int, rate: float, seed: int) -> list[bool]:
    """Return which labels are flipped: exactly a share of them."""
    chosen = set(random.Random(f"{seed} flips").sample(range(count), round(rate * count)))
    return [place in chosen for place in range(count)]


def line(world: World, rows: Sequence[dict[str, str]], rate: float, seed: int) -> str:
    """Return a line of the table."""
    flipped = flips(len(rows), rate, seed)
    folder = world.folder / f"flipped-{rate:g}-{seed}"
    data = folder / "pairs.jsonl"
    if not data.exists():
        write_json_lines(data, turned(rows, flipped))
    own = world.settings
    settings: dict[str, Any] = {
        "beta": own.dpo_beta,
        "learning_rate": own.dpo_learning_rate,
        "epochs": own.dpo_epochs,
        "batch_size": own.dpo_batch_size,
        "device": "cpu",
        "dtype": "float32",
        "seed": seed,
    }
    run = RunDir(folder / "all")
    with Progress(100) as progress:
        unseen = tokenq.audit(
            data, model=world.sft, folds=FOLDS, fold_dir=folder / "folds", listener=progress, **settings
        )
        if not run.policy.exists():
            tokenq.train(world.sft, data, run.path, resume=run.path.exists(), listener=progress, **settings)
        seen = own_margins(data, Run(run.path))
    margins = [one["margin"] for one in JsonLines(folder / "folds" / "margins.jsonl").read()]
    said = unseen.margins
    ends = f"[{said['wrong_labels_low']:.3f}, {said['wrong_labels_high']:.3f}]"
    cells = [
        f"{np.mean(flipped):.3f}",
        str(seed),
        f"{len(rows)}",
        f"{said['negative']:.3f}",
        f"{said['wrong_labels']:.3f} {ends}",
        f"{said['accuracy']:.3f}",
        auroc(flipped, margins),
        auroc(flipped, seen),
        f"{np.mean(np.array(seen) < 0):.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def turned(rows: Sequence[dict[str, str]], flipped: Sequence[bool]) -> Iterator[dict[str, str]]:
    """Yield rows, those that are flipped with their sides exchanged."""
    for row, turn in zip(rows, flipped, strict=True):
        yield {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if turn else dict(row)


def own_margins(data: Path, run: Run) -> list[float]:
    """Return the margins of a run on rows that it was trained on."""
    traces = tokenq.load(run, device="cpu", levels=(), top_k=0).score_all(data)
    rewards = np.array([trace.totals.implicit_reward for trace in traces]).reshape(-1, 2)
    return list(rewards[:, 0] - rewards[:, 1])


def auroc(flipped: Sequence[bool], margins: Sequence[float]) -> str:
    """Return how well low margins tell flipped labels from others, "–" where there are none."""
    return f"{roc_auc_score(flipped, -np.array(margins)):.3f}" if any(flipped) else "–"


if __name__ == "__main__":
    main()
