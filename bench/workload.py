"""The pairs that are trained on, in token space, written once so that every process reads the same ids."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import SEED, Plan, Shape
from tokenq.records.examples import Role, TokenGroup, TokenResponse

TINY = "tiny"
"""Name of the model that is built in code."""


def write_workloads(
    folder: Path, model: str, data: str, plan: Plan, max_length: int, batch_size: int
) -> dict[str, Any]:
    """Write the pairs of a run to `folder` and return what is worth knowing of them.

    Args:
        folder: target, one JSON file a workload.
        model: the model's folder or hub id.
        data: the preference data; "" for random pairs.
        plan: sizes.
        max_length: longer rows are left out.
        batch_size: pairs in an update.
    """
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(model).get_text_config().vocab_size
    rng = np.random.default_rng(SEED)
    found, about = _read(model, data, max_length) if data else _random_lengths(plan.pairs, vocabulary, rng)
    taken = _spread(found, plan.pairs, batch_size)
    _write(folder / "data.json", taken)
    for name, shape in plan.shapes().items():
        pairs_of_shape = [random_pair(shape, vocabulary, rng) for _ in range(shape.pairs)]
        if shape.prompts is not None:
            pairs_of_shape = [
                replace(pair, prompt_ids=pairs_of_shape[i % shape.prompts].prompt_ids)
                for i, pair in enumerate(pairs_of_shape)
            ]
        _write(folder / f"{name}.json", pairs_of_shape)
    lengths = [[len(group.prompt_ids), *(len(r.ids) for r in group.responses)] for group in taken]
    prompt, chosen, rejected = np.mean(lengths, 0)
    return {
        "data": about,
        "pairs": f"{len(taken)}, spread over the lengths of the data; mean tokens: prompt {prompt:.0f}, "
        f"chosen {chosen:.0f}, rejected {rejected:.0f}",
    }


def read_workload(path: Path, pairs: int) -> list[TokenGroup]:
    """Return the first so many pairs of a workload."""
    rows = json.loads(path.read_text())
    if len(rows) < pairs:
        raise ValueError(f"{path.name} holds {len(rows)} pairs, {pairs} are asked for")
    return [
        TokenGroup(_ids(row["prompt"]), _pair(row["chosen"], row["rejected"]), True, f"pair {i}")
        for i, row in enumerate(rows[:pairs])
    ]


def write_tiny_model(folder: Path) -> None:
    """Write a tiny model with its tokenizer, for a run that only shows that everything works."""
    from tests.tiny import tiny_model, tiny_tokenizer

    tiny_model("gemma3").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _read(model: str, data: str, max_length: int) -> tuple[list[TokenGroup], str]:
    from tokenq.data.examples import read_examples
    from tokenq.data.sources import load_examples
    from tokenq.data.tokenize import tokenize
    from tokenq.models.load import ModelSpec
    from tokenq.models.tokenizer import load_tokenizer

    read = partial(read_examples, selection="pairs", bad_rows="drop")
    found = load_examples([data], read, seed=SEED)
    tokenizer = load_tokenizer(ModelSpec(model))
    tokenized = tokenize(
        found.examples, tokenizer, max_length=max_length, rows=found.rows, dropped=found.dropped, truncation="drop"
    )
    return tokenized.groups, f"{Path(data).name}: {tokenized.summary.line()}"


def _spread(groups: list[TokenGroup], pairs: int, batch_size: int) -> list[TokenGroup]:
    """Return so many pairs at even distances in the order of length, arranged so that every update spans all lengths.

    A few pairs taken at random have lengths of their own, and the two systems do not mind length alike.
    """
    by_length = sorted(groups, key=lambda group: group.n_tokens)
    taken = [by_length[int((k + 0.5) * len(by_length) / pairs)] for k in range(pairs)]
    blocks = max(1, pairs // batch_size)
    return [group for block in range(blocks) for group in taken[block::blocks]]


def _random_lengths(pairs: int, vocabulary: int, rng: np.random.Generator) -> tuple[list[TokenGroup], str]:
    shapes = [Shape(int(rng.integers(10, 60)), int(rng.integers(5, 30)), pairs) for _ in range(pairs)]
    return [random_pair(shape, vocabulary, rng) for shape in shapes], "random tokens"


def random_pair(shape: Shape, vocabulary: int, rng: np.random.Generator) -> TokenGroup:
    """Return a pair of random tokens."""

    def draw(n: int) -> np.ndarray:
        return rng.integers(4, vocabulary, n).astype(np.int32)

    responses = _pair(draw(shape.response), draw(shape.response))
    return TokenGroup(draw(shape.prompt), responses, True, "random")


def _pair(chosen: Any, rejected: Any) -> tuple[TokenResponse, TokenResponse]:
    def response(ids: Any, role: Role) -> TokenResponse:
        return TokenResponse(_ids(ids), np.ones(len(ids), dtype=bool), True, role)

    return response(chosen, "chosen"), response(rejected, "rejected")


def _ids(ids: Any) -> np.ndarray:
    return np.asarray(ids, dtype=np.int32)


def _write(path: Path, groups: list[TokenGroup]) -> None:
    rows = [
        {
            "prompt": group.prompt_ids.tolist(),
            "chosen": group.responses[0].ids.tolist(),
            "rejected": group.responses[1].ids.tolist(),
        }
        for group in groups
    ]
    path.write_text(json.dumps(rows))
