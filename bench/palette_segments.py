"""Words and pictures in one model: DPO with a strength for each, by Eq. 18 of arXiv 2404.12358, in a world of palettes.

    python -m bench.palette_segments [--seed 0] [--steps 150] [--pairs 3000]

A request asks for a block of one of four colours in one of four quarters on one of two grounds. A tiny Llama writes
three words and then 16 palette tokens, a picture of 4×4; it has learnt from careless demonstrations, whose words are
right in nine of ten of the plain requests and in four of ten of the vague ones, and whose pictures show what the words
say in three of four. A program counts what the picture has right (0 to 3); two answers of the model to a request are a
pair, labelled by Bradley-Terry. Every row of the table is trained on the same pairs for as many steps and differs in
the strengths of words (β) and picture (γ) alone; all log-probs are exact.

Columns: held-out accuracy of the margin and of each of its parts on pairs of unequal worth, the spread of both parts,
KL(π‖π_ref) of both on what the policy writes, the true reward of that with its 95 % interval, the shares of its prompts
that are right and of its pictures that show what the prompt says, and how well the two rewards tell which of the two
was at fault (AUROC).
"""

import argparse
import copy
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenq.core.losses import find_sum
from tokenq.core.tensors import Actions, Outputs
from tokenq.stats.areas import example_metrics
from tokenq.training.objective import Objective

COLOURS, PLACES, GROUNDS, SIDE = 4, 4, 2, 4
REQUESTS = COLOURS * PLACES * GROUNDS
SIZES = (COLOURS, PLACES, GROUNDS)
STARTS = (REQUESTS, REQUESTS + COLOURS, REQUESTS + COLOURS + PLACES)
"""Token ids: requests, then the words of each attribute, the beginning of the picture, eight colours."""
IMAGE = STARTS[2] + GROUNDS
PALETTE = IMAGE + 1
VOCABULARY = PALETTE + 8
WORDS, LENGTH = 3, 3 + 1 + SIDE * SIDE
PLAIN, VAGUE, TOLD, SPECK = 0.9, 0.4, 0.75, 0.03
SCALE = 1.5
"""What a right attribute is worth to the labeller, in nats."""


def picture_of(attributes: Tensor) -> Tensor:
    """Return the pictures [n, 16] that show colour, quarter and ground [n, 3]: colours 0..3 on grounds 4 and 5."""
    cells = torch.arange(SIDE * SIDE)
    quarters = (cells // SIDE // 2) * 2 + cells % SIDE // 2
    block = quarters[None] == attributes[:, 1:2]
    return torch.where(block, attributes[:, :1], 4 + attributes[:, 2:])


EVERY = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
SHOWN = picture_of(EVERY)


def seen_in(pictures: Tensor) -> Tensor:
    """Return what pictures [n, 16] show: the attributes [n, 3] of the nearest picture without specks."""
    return EVERY[(pictures[:, None] != SHOWN[None]).sum(2).argmin(1)]


class Written(NamedTuple):
    """Answers to requests.

    Attributes:
        ids: [n, 1 + LENGTH] the request, three words, the beginning of the picture, and 16 colours.
        words: [n, 3] what the words say, −1 for none of the attribute.
        shown: [n, 3] what the picture shows.
        reward: [n] how much of the request it has.
    """

    ids: Tensor
    words: Tensor
    shown: Tensor
    reward: Tensor


def read(ids: Tensor) -> Written:
    """Return answers with what they say, show and are worth."""
    said = ids[:, 1 : 1 + WORDS] - torch.tensor(STARTS)
    words = torch.where((said >= 0) & (said < torch.tensor(SIZES)), said, -1)
    shown = seen_in(ids[:, 2 + WORDS :] - PALETTE)
    return Written(ids, words, shown, (shown == EVERY[ids[:, 0]]).sum(1).float())


def demonstrations(count: int, random: torch.Generator) -> Tensor:
    """Return careless answers [n, 1 + LENGTH] to random requests."""

    def drawn(high: Sequence[int]) -> Tensor:
        return torch.stack([torch.randint(size, (count,), generator=random) for size in high], 1)

    requests = torch.randint(REQUESTS, (count,), generator=random)
    right = torch.where(requests % 2 == 0, PLAIN, VAGUE)[:, None]
    words = torch.where(torch.rand(count, 3, generator=random) < right, EVERY[requests], drawn(SIZES))
    slips = torch.rand(count, generator=random) > TOLD
    which = torch.randint(3, (count,), generator=random)[:, None] == torch.arange(3)
    pictures = picture_of(torch.where(slips[:, None] & which, drawn(SIZES), words))
    specks = torch.rand(pictures.shape, generator=random) < SPECK
    pictures = torch.where(specks, torch.randint(8, pictures.shape, generator=random), pictures)
    start = torch.full((count, 1), IMAGE)
    return torch.cat((requests[:, None], words + torch.tensor(STARTS), start, pictures + PALETTE), 1)


def logps(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Return log π [n, LENGTH] of every token after the request."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]


@torch.no_grad()
def answers(model: LlamaForCausalLM, requests: Tensor, random: torch.Generator) -> Written:
    """Return an answer to each request, sampled at temperature 1."""
    ids, past = requests[:, None], None
    for _ in range(LENGTH):
        out = model(input_ids=ids[:, -1:], past_key_values=past, use_cache=True)
        past = out.past_key_values
        drawn = torch.multinomial(torch.softmax(out.logits[:, -1], -1), 1, generator=random)
        ids = torch.cat((ids, drawn), 1)
    return read(ids)


def imitator(seed: int, steps: int) -> LlamaForCausalLM:
    """Return a model that writes as the demonstrations do."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        loss = -logps(model, demonstrations(128, random)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


class Pairs(NamedTuple):
    """Pairs of answers to one request each: [n] of two, the chosen one in `chosen`; log π_ref of both sides."""

    chosen: Written
    rejected: Written
    references: Tensor


def labelled(model: LlamaForCausalLM, count: int, random: torch.Generator) -> Pairs:
    """Return pairs that the model has written, labelled by Bradley-Terry."""
    requests = torch.randint(REQUESTS, (count,), generator=random)
    first, second = answers(model, requests, random), answers(model, requests, random)
    wins = torch.rand(count, generator=random) < torch.sigmoid(SCALE * (first.reward - second.reward))
    chosen, rejected = (read(torch.where(side[:, None], first.ids, second.ids)) for side in (wins, ~wins))
    with torch.no_grad():
        reference = torch.stack([logps(model, one.ids) for one in (chosen, rejected)], 1)
    return Pairs(chosen, rejected, reference)


def actions(count: int) -> Actions:
    """Return the actions of pairs (chosen, rejected, chosen, …): three words, then the picture."""
    every = torch.arange(2 * count)
    segments = (torch.arange(LENGTH) >= WORDS).long()
    return Actions(
        responses=every.repeat_interleave(LENGTH),
        places=torch.arange(LENGTH).repeat(2 * count),
        shape=(2 * count, LENGTH),
        roles=("chosen", "rejected") * count,
        pairs=every.reshape(-1, 2),
        members=tuple((i // 2, i % 2) for i in range(2 * count)),
        origins=("palettes",) * (2 * count),
        token_columns={"segments": segments.repeat(2 * count)},
        response_columns={},
    )


def preferring(
    start: LlamaForCausalLM, pairs: Pairs, strengths: Mapping[str, float], steps: int, seed: int
) -> LlamaForCausalLM:
    """Return the model after DPO on pairs with a strength for words and for the picture."""
    model, random = copy.deepcopy(start), torch.Generator().manual_seed(seed)
    loss = find_sum("dpo", {"beta": max(strengths.values())})
    objective, done = Objective(loss, loss.beta, segments=strengths), actions(64)
    ids = torch.stack((pairs.chosen.ids, pairs.rejected.ids), 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.0)
    for _ in range(steps):
        rows = torch.randint(len(ids), (64,), generator=random)
        policy = logps(model, ids[rows].flatten(0, 1)).flatten()
        result = objective.judge(Outputs(policy, pairs.references[rows].flatten()), done)
        optimizer.zero_grad()
        objective.share(result, [64]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def measured(
    model: LlamaForCausalLM, start: LlamaForCausalLM, pairs: Pairs, strengths: Mapping[str, float], seed: int
) -> list[str]:
    """Return a row of the table."""
    beta, gamma = strengths.values()
    ratios = torch.stack([logps(model, one.ids) for one in (pairs.chosen, pairs.rejected)], 1) - pairs.references
    words, image = beta * ratios[..., :WORDS].sum(2), gamma * ratios[..., WORDS:].sum(2)
    better = pairs.chosen.reward - pairs.rejected.reward
    signed = [(one[:, 0] - one[:, 1]) for one in (words + image, words, image)]
    right = [f"{(one[better != 0] > 0).float().mean():.3f}" if one.any() else "" for one in signed]
    said = answers(model, torch.arange(2048) % REQUESTS, torch.Generator().manual_seed(seed + 7))
    away = logps(model, said.ids) - logps(start, said.ids)
    blame = torch.cat([image[:, side] - words[:, side] for side in (0, 1)])
    both = zip(*(faults(one) for one in (pairs.chosen, pairs.rejected)), strict=True)
    in_words, in_picture = (torch.cat(sides) for sides in both)
    known = in_words ^ in_picture  # of one fault alone
    told_apart = example_metrics(blame[known, None].double().numpy(), in_words[known].numpy(), ())["auroc"][0]
    half = 1.96 * said.reward.std() / len(said.reward) ** 0.5
    asked, told = EVERY[said.ids[:, 0]], (said.shown == said.words).all(1)
    return [
        f"{beta:g}, {gamma:g}",
        *right,
        f"{signed[1].std():.2f}, {signed[2].std():.2f}",
        f"{away[:, :WORDS].sum(1).mean():.2f}, {away[:, WORDS:].sum(1).mean():.2f}",
        f"{said.reward.mean():.3f} ± {half:.3f}",
        f"{(said.words == asked).all(1).float().mean():.3f}",
        f"{told.float().mean():.3f}",
        f"{told_apart:.3f}" if blame.any() else "",
    ]


def faults(one: Written) -> tuple[Tensor, Tensor]:
    """Return where the words do not say what was asked for, and where the picture does not show what they say."""
    return (one.words != EVERY[one.ids[:, 0]]).any(1), (one.shown != one.words).any(1)


HEADS = ("β, γ", "accuracy", "of words", "of the picture", "sd of both", "KL of both", "true reward of 3")
HEADS += ("prompt right", "drawn as told", "fault (AUROC)")
GRID = ((0.1, 0.0), (0.5, 0.0), (0.0, 0.1), (0.0, 0.5), (0.1, 0.1), (0.5, 0.5), (0.1, 0.02), (0.1, 0.5), (0.5, 0.1))
"""(β, γ) of the rows."""


def main() -> None:
    """Train the reference and every row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights, pairs and steps")
    parser.add_argument("--steps", type=int, default=150, help="updates of every row, of 64 pairs")
    parser.add_argument("--pairs", type=int, default=3000, help="pairs that are learnt from")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = imitator(asked.seed, 400)
    random = torch.Generator().manual_seed(asked.seed + 1)
    pairs, held_out = labelled(start, asked.pairs, random), labelled(start, 2000, random)
    print(f"reference in {time.process_time():.0f} s; label right: {label_right(pairs):.3f} of pairs of unequal worth")
    show(HEADS)
    show(["---"] * len(HEADS))
    show(measured(start, start, held_out, {"words": 0.0, "image": 0.0}, asked.seed))
    for beta, gamma in GRID:
        strengths = {"words": beta, "image": gamma}
        model = preferring(start, pairs, strengths, asked.steps, asked.seed + 2)
        show(measured(model, start, held_out, strengths, asked.seed))
    print(f"{time.process_time():.0f} s of one processor")


def label_right(pairs: Pairs) -> float:
    """Return the share of pairs of unequal worth whose chosen answer is worth more."""
    better = (pairs.chosen.reward - pairs.rejected.reward).numpy()
    return float(np.mean(better[better != 0] > 0))


def show(cells: Sequence[str]) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
