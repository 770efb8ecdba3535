"""Rows to train on from the world of posts, and the model and settings of the demonstration that learns from them.

The rows are plain dictionaries in the form that any preference trainer reads. Nothing here trains: the demonstration
goes through the same jobs as any other run.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Final, Literal

import torch

from tokenq.demo.gold import GOLD, GoldReward
from tokenq.demo.tldr import CARELESS, CLEAN, Difficulty, Noise, Post, dice, make_posts, write_summary
from tokenq.demo.tokenizer import demo_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def sft_rows(posts: Sequence[Post], noise: Noise = CLEAN, *, seed: int = 0, wordings: int = 3) -> list[dict[str, str]]:
    """Return one {"prompt", "completion"} row per post, a demonstration by a writer of the given care."""
    return [
        {"prompt": post.prompt, "completion": write_summary(post, noise, seed=seed, wordings=wordings)}
        for post in posts
    ]


def label_pairs(
    posts: Sequence[Post],
    candidates: Sequence[Sequence[str]],
    reward: GoldReward = GOLD,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[dict[str, str]]:
    """Return {"prompt", "chosen", "rejected"} rows: two different candidates per post, labelled by Bradley-Terry.

    P(a ≻ b) = σ((r(a) − r(b)) / temperature) with the gold reward r. A post without two different candidates that
    say anything gives no row.

    Args:
        posts: the prompts.
        candidates: for each post the summaries to choose from, for instance samples of a policy.
        reward: what the labeller goes by.
        seed: of the choice and of the labels.
        temperature: of the labels, in units of reward; 0 always prefers the better one.
    """
    rows = []
    for post, texts in zip(posts, candidates, strict=True):
        draw = dice("pair", seed, post.prompt)
        different = [text for text in dict.fromkeys(texts) if text.strip()]
        if len(different) < 2:
            continue
        first, second = draw.sample(different, 2)
        gap = reward(post, first) - reward(post, second)
        if _prefers_first(gap, temperature, draw):
            rows.append({"prompt": post.prompt, "chosen": first, "rejected": second})
        else:
            rows.append({"prompt": post.prompt, "chosen": second, "rejected": first})
    return rows


def _prefers_first(gap: float, temperature: float, draw: random.Random) -> bool:
    """Return a Bradley-Terry draw: True with probability σ(gap / temperature)."""
    chance = draw.random()
    if temperature == 0:
        return gap > 0 or (gap == 0 and chance < 0.5)
    scaled = max(-60.0, min(60.0, gap / temperature))
    return chance < 1 / (1 + exp(-scaled))


def demo_model(seed: int = 0) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Return an untrained Pythia-like model of about 0.1 million parameters, and its tokenizer.

    GPT-NeoX: width 64, 3 layers, 4 heads, tied embeddings, rotary positions on half of each head. The weights begin
    at 0.12, six times wider than usual, without which copying a value from the post is not learnt in a minute.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = demo_tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=256,
        rotary_pct=0.5,
        tie_word_embeddings=True,
        initializer_range=0.12,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config), tokenizer


@dataclass(frozen=True)
class SftStage:
    """One stage of the curriculum: a training of its own that continues with the weights of the stage before.

    Attributes:
        posts: how many demonstrations.
        difficulty: of the posts.
        noise: of the demonstrations.
        schedule: course of the learning rate within the stage, after the warm-up.
    """

    posts: int
    difficulty: Difficulty
    noise: Noise
    schedule: Literal["constant_with_warmup", "cosine"]


SHORT: Final = Difficulty(facts=(1, 2), asides=(0, 1), fillers=(0, 0))
"""Posts of about 25 words, from which copying is learnt in seconds, as from full posts alone it is not."""

FULL: Final = Difficulty()
"""Posts of about 75 words: the world of the demonstration."""

MIDDLE: Final = Difficulty(facts=(2, 3), asides=(1, 2), fillers=(0, 0))
"""Posts of about 40 words: the easier world of a quick demonstration."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration trains on and how: found by trial, so that all of it fits into minutes on two cores.

    Attributes:
        seed: of the posts, the writers, the labels and the model.
        difficulty: of the posts that the policy is to summarise in the end.
        sft_stages: the curriculum: short posts, full posts, careless demonstrations of full posts.
        sft_batch_size: demonstrations per step; small, because here it is steps that count.
        sft_learning_rate: peak of every stage, and of SFT on chosen responses.
        sft_warmup_steps: at the start of every stage.
        pair_posts: posts whose preference pairs the policy is trained on.
        held_out_posts: other posts, for what happens to pairs that nothing was trained on.
        test_posts: further posts, which policies summarise and the true reward judges.
        corrupted_posts: of posts whose clean summary gets one wrong fact; the first ones are the test posts.
        label_temperature: of the Bradley-Terry labels, in units of gold reward.
        length_bonus: for each token, in the taste of the labeller who likes long summaries.
        dpo_beta: temperature of the KL penalty.
        dpo_batch_size: pairs per step.
        dpo_epochs: passes over the pairs.
        dpo_learning_rate: peak, falling as a cosine.
        dpo_warmup_steps: at the start.
    """

    seed: int = 0
    difficulty: Difficulty = FULL
    sft_stages: tuple[SftStage, ...] = (
        SftStage(4000, SHORT, CLEAN, "constant_with_warmup"),
        SftStage(7000, FULL, CLEAN, "constant_with_warmup"),
        SftStage(3500, FULL, CARELESS, "cosine"),
    )
    sft_batch_size: int = 8
    sft_learning_rate: float = 3e-3
    sft_warmup_steps: int = 20
    pair_posts: int = 2000
    held_out_posts: int = 300
    test_posts: int = 100
    corrupted_posts: int = 300
    label_temperature: float = 0.5
    length_bonus: float = 0.1
    dpo_beta: float = 0.1
    dpo_batch_size: int = 32
    dpo_epochs: float = 2.0
    dpo_learning_rate: float = 1.5e-3
    dpo_warmup_steps: int = 5

    @classmethod
    def quick(cls, seed: int) -> "DemoSettings":
        """Return the settings of a quick demonstration: an easier world, and fewer posts of each kind."""
        return cls(
            seed=seed,
            difficulty=MIDDLE,
            sft_stages=(
                SftStage(3000, SHORT, CLEAN, "constant_with_warmup"),
                SftStage(3000, MIDDLE, CLEAN, "constant_with_warmup"),
                SftStage(1600, MIDDLE, CARELESS, "cosine"),
            ),
            pair_posts=1200,
            held_out_posts=120,
            test_posts=50,
            corrupted_posts=120,
        )

    def sft_rows(self) -> tuple[list[dict[str, str]], ...]:
        """Return the demonstrations of every stage, {"prompt", "completion"} rows."""
        return tuple(
            sft_rows(make_posts(stage.posts, seed=100 * self.seed + i, difficulty=stage.difficulty), stage.noise)
            for i, stage in enumerate(self.sft_stages)
        )

    def for_pairs(self) -> tuple[Post, ...]:
        """Return the posts whose preferences are trained on."""
        return self._posts(98, self.pair_posts)

    def held_out(self) -> tuple[Post, ...]:
        """Return the posts of pairs that nothing is trained on."""
        return self._posts(99, self.held_out_posts)

    def for_test(self) -> tuple[Post, ...]:
        """Return the posts to summarise and to judge by the gold reward."""
        return self.for_corruption()[: self.test_posts]

    def for_corruption(self) -> tuple[Post, ...]:
        """Return the posts whose clean summaries are corrupted."""
        return self._posts(97, self.corrupted_posts)

    def _posts(self, kind: int, count: int) -> tuple[Post, ...]:
        return make_posts(count, seed=100 * self.seed + kind, difficulty=self.difficulty)
