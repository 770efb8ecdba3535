"""Words and pictures, trained together or alone, in exact worlds: `python -m bench.joint_worlds`, tables on stdout.

A refiner chooses one of six prompts, and a chain of four states is drawn from noise; Bradley-Terry judges both by the
reward of the picture, N(0, 1.5²) for each prompt and picture, and β = γ = ½. Infinitely many pairs are written by the
references, and DPO's population loss is minimised by L-BFGS: over words alone, over steps alone, both of these put
together, and both in one loss (Eq. 18 of arXiv 2404.12358). Shown is (J − J(ref))/(J* − J(ref)), with J = E r − β KL −
γ E KL, and the slope of the refiner's implicit reward on the right one. The last table is of one token of a text.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenq.verify.claim import Case
from tokenq.verify.learning import one_token
from tokenq.worlds.draws import clockwork, generator, random_policy
from tokenq.worlds.hybrid import Drawings, HybridWorld, objective, random_chains, solve
from tokenq.worlds.hybrid_learning import fit, preferences
from tokenq.worlds.mdp import EOS, build, prune
from tokenq.worlds.soft_q import token_logps

PROMPTS, STATES, STRENGTH, SCALE = 6, 4, 0.5, 1.5

ITERATIONS = 60
"""Of L-BFGS. After 50 no share moves by more than .001 (2,000 tried in worlds of one and of two steps)."""

NOISES: dict[str, tuple[Callable[[Drawings], Tensor], int]] = {
    "one": (lambda drawings: drawings.path[:, 0], 6),
    "two": (lambda drawings: torch.zeros_like(drawings.responses), 3),
}
"""How many initial noises a pair has: what its two pictures have in common, and how many worlds are computed."""

COLUMNS = ("refiner alone", "image alone", "separate losses", "joint", "slope alone", "slope joint")


def drawn_world(seed: int, steps: int, spread: float) -> HybridWorld:
    """Return a world of a seed, its steps' logits N(0, spread²)."""
    words = build(vocab_size=PROMPTS + 1, horizon=1, beta=STRENGTH)
    words = prune(words, (torch.arange(words.vocab_size) != EOS).expand(words.n_states, -1))
    words = replace(words, reference_logps=random_policy(words, generator(seed)))
    noise = torch.full((STATES,), 1 / STATES, dtype=torch.float64)
    dice = generator(1_000 + seed)
    return random_chains(words, dice, noise, steps, gamma=STRENGTH, spread=spread, scale=SCALE)


def shares(world: HybridWorld, noises: str) -> list[float]:
    """Return what each way of training attains, and the refiner's slopes: `COLUMNS`."""
    drawings, best = world.drawings(), solve(world)
    scores = world.rewards[drawings.responses, drawings.path[:, -1]]
    blocks = preferences(world, drawings, scores, NOISES[noises][0](drawings))
    steps = torch.arange(1 + world.n_steps) > 0

    def trained(kept: Tensor) -> tuple[Tensor, Tensor]:
        return fit(world, drawings, blocks, kept, ITERATIONS)

    refiner, image, joint = trained(~steps), trained(steps), trained(torch.ones_like(steps))
    start, end = (
        float(objective(world, *tables)[0])
        for tables in ((world.words.reference_logps, world.step_logps), (best.words.logps, best.step_logps))
    )
    ways = refiner, image, (refiner[0], image[1]), joint
    attained = [(float(objective(world, *tables)[0]) - start) / (end - start) for tables in ways]
    return [*attained, _slope(world, refiner[0], best.words.logps), _slope(world, joint[0], best.words.logps)]


def _slope(world: HybridWorld, logps: Tensor, right: Tensor) -> float:
    """Return the slope of log π/π_ref on log π*/π_ref over the prompts."""
    before = token_logps(world.sequences, world.words.reference_logps).sums()
    found, exact = (token_logps(world.sequences, table).sums() - before for table in (logps, right))
    exact = exact - exact.mean()
    return float(found @ exact / (exact @ exact))


def slope_of_one_token(sizes: Sequence[float], seeds: range) -> list[tuple[float, ...]]:
    """Return, by the size of the rewards that a loss on the first token does not see, how its coefficients shrink.

    Rule of thumb: a logistic curve is nearly a normal one with the slope k = 16√3/(15π), so an sd of s in what is not
    seen divides coefficients by √(1 + k² s²).

    Returns:
        Rows of size, sd of what is not seen of a pair, slope found, slope predicted, slope by the rule of thumb.
    """
    rows = []
    for size in sizes:
        found = []
        for seed in seeds:
            case = Case.of(clockwork(seed), seed)
            learnt, predicted, earned = one_token(case, 0, size)
            unseen = size * (case.returns - case.sequences.taken(case.world.rewards)[:, 0])[case.rows[0]]
            spread = float((unseen[:, None] - unseen).std())
            norm = earned @ earned
            rule = (1 + (16 * 3**0.5 / 15 / torch.pi) ** 2 * spread**2) ** -0.5
            found.append((spread, float(learnt @ earned / norm), float(predicted @ earned / norm), rule))
        rows.append((size, *torch.tensor(found).mean(0).tolist()))
    return rows


def main() -> None:
    """Compute, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=6, help="the most worlds a row")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    print("| spread of logits | noises a pair | steps | worlds |", " | ".join(COLUMNS), "| joint is best in |")
    print("|--:|---|--:|--:|" + "--:|" * (len(COLUMNS) + 1))
    for spread, longest in ((1.0, 3), (2.0, 2)):
        for noises, (_, most) in NOISES.items():
            for steps in range(1, longest + 1):
                count = min(most, asked.worlds)
                found = torch.tensor([shares(drawn_world(seed, steps, spread), noises) for seed in range(count)])
                best = int((found[:, 3] >= found[:, :3].amax(1)).sum())
                cells = " | ".join(f"{value:.3f}" for value in found.mean(0).tolist())
                print(f"| {spread:g} | {noises} | {steps} | {count} | {cells} | {best} of {count} |", flush=True)
    print("\n| rewards of the tokens not seen, × | their sd in a pair | slope | predicted | rule of thumb |")
    print("|--:|--:|--:|--:|--:|")
    for row in slope_of_one_token((0.0, 0.5, 1.0, 2.0, 4.0), range(5)):
        print(f"| {row[0]:g} | " + " | ".join(f"{value:.3f}" for value in row[1:]) + " |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of the processor")


if __name__ == "__main__":
    main()
