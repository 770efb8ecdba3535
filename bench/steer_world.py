"""A world of posts whose summaries have three attributes that are known: facts, length and tone, on a scale of 0 to 3.

Writers choose the three apart from each other: how many of a post's three facts they report, how much they say besides,
and which word they find for it. Whoever rates a summary errs now and then. What a summary has is counted.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from tokenq.demo.gold import count_tokens, judge
from tokenq.demo.settings import demo_model
from tokenq.demo.tldr import Difficulty, Post, dice, make_posts
from tokenq.demo.tokenizer import SPECIALS, word_tokenizer
from tokenq.demo.wording import ATTRIBUTES, REMARKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAMES = ("facts", "length", "tone")
SCALE = (0, 3)
LEVELS = range(SCALE[0], SCALE[1] + 1)
GRID = tuple(dict(zip(NAMES, levels, strict=True)) for levels in product(LEVELS, repeat=3))
"""All that can be asked for: 64 combinations, in which no attribute says anything of another."""

TONES = ("awful", "poor", "good", "great")
STARTS = (0, 14, 20, 26)
"""Words and marks from which a summary has the length 0, 1, 2 or 3."""

POSTS = Difficulty(facts=(3, 3), asides=(1, 2), fillers=(0, 0))
WRONG = 0.1
"""Chance that a reported fact has another value than the post's."""

OFF_BY_ONE, ANY = 0.2, 0.05
"""Chances that a rating is the next one, and that it says nothing at all."""


def written(post: Post, levels: Mapping[str, int], draw: random.Random) -> str:
    """Return a summary by a writer who aims at some levels, beginning with a space."""
    truth = post.truth()
    names = set(draw.sample(sorted(truth), levels["facts"]))
    phrases = []
    for name in post.topic.attributes:
        if name in names:
            attribute, value = ATTRIBUTES[name], truth[name]
            if draw.random() < WRONG:
                value = draw.choice([other for other in attribute.values if other != value])
            phrases.append(draw.choice(attribute.noted).format(value))
    while count_tokens(said := _said(post, levels["tone"], phrases)) < STARTS[levels["length"]]:
        phrases.append(draw.choice(REMARKS))
    return said


def _said(post: Post, tone: int, phrases: Sequence[str]) -> str:
    head = f" {TONES[tone]} {post.topic.title}"
    return f"{head}: {', '.join(phrases)}." if phrases else f"{head}."


def measured(post: Post, text: str) -> dict[str, float]:
    """Return what any text has of each attribute; one that says no tone has the middle one."""
    tones = [TONES.index(word) for word in text.lower().replace(":", " ").replace(".", " ").split() if word in TONES]
    size = count_tokens(text)
    return {
        "facts": float(len(judge(post, text).correct)),
        "length": float(max(level for level in LEVELS if size >= STARTS[level])),
        "tone": sum(tones) / len(tones) if tones else sum(SCALE) / 2,
    }


def rated(levels: Mapping[str, float], draw: random.Random) -> dict[str, int]:
    """Return the ratings of somebody who errs: by one with a chance of .2, by anything with a chance of .05."""
    found = {}
    for name, level in levels.items():
        chance, value = draw.random(), round(level)
        if chance < ANY:
            value = draw.choice(LEVELS)
        elif chance < ANY + OFF_BY_ONE:
            value += draw.choice((-1, 1))
        found[name] = min(max(value, SCALE[0]), SCALE[1])
    return found


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return posts with a summary each and its ratings."""
    found = []
    for place, post in enumerate(posts(count, seed, "trained")):
        draw = dice("steer", seed, place)
        text = written(post, draw.choice(GRID), draw)
        found.append({"prompt": post.prompt, "completion": text, "ratings": rated(measured(post, text), draw)})
    return found


def posts(count: int, seed: int, part: str) -> tuple[Post, ...]:
    """Return the posts of a part: trained, rounds or test."""
    return make_posts(count, seed=100 * seed + 50 + ("trained", "rounds", "test").index(part), difficulty=POSTS)


def model(seed: int) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Return the demonstration's untrained model with a tokenizer that knows tones and control strings as well."""
    import torch
    from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

    start, known = demo_model(seed)
    control = [f" [{', '.join(f'{name}: {level}' for name, level in levels.items())}]" for levels in GRID]
    pieces = [token for token in known.get_vocab() if token not in SPECIALS]
    inner = word_tokenizer([*pieces, *control, *(f" {tone}" for tone in TONES)], SPECIALS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    config = start.config
    config.vocab_size = len(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config), tokenizer
