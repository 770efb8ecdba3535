"""Rows to train on from the world of posts, and the model and settings of the demonstration that learns from them.

The rows are plain dictionaries in the form that any preference trainer reads. Nothing here trains: the demonstration
goes through the same jobs as any other run.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Final

import torch

from tokenq.worlds.tiny import tiny_tokenizer
from tokenq.worlds.tldr import CARELESS, CLEAN, Difficulty, GoldReward, Noise, Post, dice, make_posts, write_summary
from tokenq.worlds.wording import ATTRIBUTES, FILLERS, POST, QUESTIONS, REMARKS, TOPICS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def sft_rows(
    posts: Sequence[Post], noise: Noise = CLEAN, *, seed: int = 0, wordings: int = 3
) -> list[dict[str, str]]:
    """Return one {"prompt", "completion"} row per post, a demonstration by a writer of the given care."""
    return [
        {"prompt": post.prompt, "completion": write_summary(post, noise, seed=seed, wordings=wordings)}
        for post in posts
    ]


def label_pairs(
    posts: Sequence[Post],
    candidates: Sequence[Sequence[str]],
    reward: GoldReward = GoldReward(),
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[dict[str, str]]:
    """Return {"prompt", "chosen", "rejected"} rows: two different candidates per post, labelled by Bradley-Terry.

    P(a ≻ b) = σ((r(a) − r(b)) / temperature) with the gold reward r. A post without two different candidates gives
    no row.

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
        different = list(dict.fromkeys(texts))
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


def demonstration_pairs(
    posts: Sequence[Post],
    noise: Noise = CARELESS,
    reward: GoldReward = GoldReward(),
    *,
    seed: int = 0,
    temperature: float = 1.0,
    wordings: int = 3,
) -> list[dict[str, str]]:
    """Return preference rows between demonstrations of one careless writer, who by chance did better or worse."""
    candidates = [
        [write_summary(post, noise, seed=1000 * seed + number, wordings=wordings) for number in range(4)]
        for post in posts
    ]
    return label_pairs(posts, candidates, reward, seed=seed, temperature=temperature)


def demo_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the word tokenizer of the world: every piece of every post and summary is one known token, no BOS added."""
    texts = [POST, *(f" {part}" for topic in TOPICS for part in (*topic.opening, f"{topic.title}:"))]
    texts += [f" {part}" for part in (*FILLERS, *QUESTIONS, *REMARKS)]
    for attribute in ATTRIBUTES.values():
        templates = (*attribute.stated, *attribute.asides, *attribute.noted)
        texts += [f" {template.replace('{}', value)}," for template in templates for value in attribute.values]
    return tiny_tokenizer("words", texts=[text.replace("{}", "") for text in texts], bos="known")


def demo_model(seed: int = 0) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Return an untrained Pythia-like model of about 0.1 million parameters, and its tokenizer.

    GPT-NeoX: width 64, 2 layers, 4 heads, tied embeddings, rotary positions on half of each head. The weights begin
    wider than usual (0.08), without which copying a value from the post is not learnt in a minute.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = demo_tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=256,
        rotary_pct=0.5,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config), tokenizer
