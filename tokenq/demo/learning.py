"""How the policies of the demonstration in the world of posts learn: from others, and from pairs of their own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from tokenq.demo.gold import GOLD, GoldReward
from tokenq.demo.processes import Together, in_turn
from tokenq.demo.settings import DemoSettings, demo_model, label_pairs
from tokenq.demo.steps import EVALUATIONS, answers, trained
from tokenq.demo.tldr import Post
from tokenq.files import folder_aside, write_json_lines
from tokenq.models.load import hide_progress_bars
from tokenq.records.results import Candidate, SearchResult

REWARD, LENGTH = "dpo", "length_dpo"
"""Runs that learn from pairs, by what their labeller likes."""

NEW_TOKENS = 48
"""Maximum number of tokens in a summary; a clean one has about 20."""


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
        return self.folder / REWARD

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
        return _gold(self.test_posts[result.id], candidate.text)


@cache
def _gold(post: Post, text: str) -> float:
    """Return the true reward of a summary; many searches find the same one."""
    return GOLD(post, text)


def learn(world: World) -> None:
    """Train a model that knows nothing on demonstrations, stage by stage."""
    hide_progress_bars()
    model, tokenizer = demo_model(world.settings.seed)
    policy = world.folder / "start"
    with folder_aside(policy) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    for number, (stage, rows) in enumerate(zip(world.settings.sft_stages, world.settings.sft_rows(), strict=True), 1):
        policy = sft(world, f"sft{number}", policy, world.data(f"demonstrations{number}", rows), stage.schedule)


def sft(world: World, name: str, model: Path, data: Path, schedule: str) -> Path:
    """Train on demonstrations, and return the policy."""
    return trained(
        world.folder / name,
        loss="sft",
        batch_size=world.settings.sft_batch_size,
        learning_rate=world.settings.sft_learning_rate,
        warmup_steps=world.settings.sft_warmup_steps,
        schedule=schedule,
        **_shared(world, model, data),
    )


def dpo(world: World, name: str, model: Path, data: Path, held_out: Path | None = None) -> None:
    """Train on pairs against the model that is begun from."""
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
        # Each training its own: of two that run at once, the faster would decide whose values are kept.
        reference_store=str(world.folder / "reference" / name),
        eval_data=() if held_out is None else (str(held_out),),
        eval_steps=max(1, steps // EVALUATIONS),
        **_shared(world, model, data),
    )


def _shared(world: World, model: Path, data: Path) -> dict[str, Any]:
    seed = world.settings.seed
    return {"model": str(model), "data": (str(data),), "seed": seed, "device": "cpu", "dtype": "float32"}


def labelled_pairs(world: World, together: Together = in_turn) -> tuple[Path, Path, Path]:
    """Return pairs of summaries by the SFT policy: to train on, the same labelled with a taste for length, held out."""
    own = world.settings
    posts, held_out = own.for_pairs(), own.held_out()
    half = len(posts) // 2
    parts = {"pairs1": posts[:half], "pairs2": posts[half:], "held_out": held_out}
    first, second, last = together(
        {f"summaries for {name}": partial(_summaries, world, name, part) for name, part in parts.items()}
    )
    by_length = GoldReward(length_bonus=own.length_bonus)
    return (
        _labelled(world, "pairs", posts, [*first, *second], GOLD),
        _labelled(world, "length_pairs", posts, [*first, *second], by_length),
        _labelled(world, "held_out", held_out, last, GOLD),
    )


def _summaries(world: World, name: str, posts: Sequence[Post]) -> list[list[str]]:
    """Return two summaries of each post by the SFT policy."""
    found = answers(
        world.folder / "samples" / f"{name}.jsonl",
        policy=str(world.sft),
        prompts=[str(world.data(f"{name}_posts", ({"prompt": post.prompt} for post in posts)))],
        method="sample",
        n=2,
        **decoding(world),
    )
    return [[candidate.text for candidate in result.candidates] for result in found]


def _labelled(
    world: World, name: str, posts: Sequence[Post], texts: Sequence[Sequence[str]], taste: GoldReward
) -> Path:
    """Return the file of pairs that a taste makes of the summaries of posts."""
    own = world.settings
    return world.data(name, label_pairs(posts, texts, taste, seed=own.seed, temperature=own.label_temperature))


def decoding(world: World) -> dict[str, Any]:
    """Return the decoding settings of every search of the demonstration."""
    return {"max_new_tokens": NEW_TOKENS, "batch_size": 150, "device": "cpu", "seed": world.settings.seed}
