"""A batch counts what the loss counts: exactly so many responses, where prompts are shared too, each once a pass."""

import numpy as np
import pytest
from small_runs import groups_for, lines_of, random_pairs, small_config, train_small, weights_of

from tokenq.core.losses import find_sum
from tokenq.core.packing import pack
from tokenq.records import TokenGroup
from tokenq.training.micro import packed
from tokenq.training.order import Part, cut, examples_of, step_parts, step_places, steps_per_epoch, taken, total_steps

SIZES = np.array([4, 1, 4, 2])


def shared_prompts(count, each, *, labels=True):
    """Return prompts with so many labelled responses each."""
    groups = []
    for place, pair in enumerate(random_pairs(count)):
        more = [one.responses[k % 2] for k, one in enumerate(random_pairs(each, seed=place + 1)[:each])]
        marked = [type(r)(r.ids, r.mask, r.terminal, label=bool(k % 2) if labels else None) for k, r in enumerate(more)]
        groups.append(TokenGroup(pair.prompt_ids, tuple(marked), False, pair.where))
    return groups


def test_groups_are_cut_where_a_step_is_full():
    """In the order 2, 0, 1, 3 the eleven examples are 2222 0000 1 33: threes of them by hand."""
    order = np.array([2, 0, 1, 3])
    assert cut(order, SIZES, 0, 3) == [Part(2, 0, 3)]
    assert cut(order, SIZES, 3, 3) == [Part(2, 3, 4), Part(0, 0, 2)]
    assert cut(order, SIZES, 6, 3) == [Part(0, 2, 4), Part(1, 0, 1)]
    assert cut(order, SIZES, 9, 3) == [Part(3, 0, 2)]
    assert cut(order, SIZES, 0, 100) == [Part(2, 0, 4), Part(0, 0, 4), Part(1, 0, 1), Part(3, 0, 2)]


def test_groups_without_an_example_are_passed_over():
    assert cut(np.arange(3), np.array([2, 0, 1]), 1, 2) == [Part(0, 1, 2), Part(2, 0, 1)]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 64])
def test_every_epoch_takes_every_response_once(tmp_path, batch):
    config = small_config(tmp_path, batch_size=batch)
    steps = steps_per_epoch(config, 11)
    assert steps == -(-11 // batch)
    for epoch in range(2):
        parts = [step_parts(config, SIZES, epoch * steps + step) for step in range(steps)]
        counts = [sum(part.stop - part.start for part in step) for step in parts]
        assert counts == [batch] * (11 // batch) + [11 % batch] * (11 % batch > 0)
        seen = sorted((p.place, i) for step in parts for p in step for i in range(p.start, p.stop))
        assert seen == [(place, i) for place, size in enumerate(SIZES) for i in range(size)]


def test_pairs_are_taken_as_whole_groups(tmp_path):
    config = small_config(tmp_path)
    parts = step_parts(config, examples_of(random_pairs(10), "pairs").sizes, 1)
    assert [part.place for part in parts] == step_places(config, 10, 1)
    assert {(part.start, part.stop) for part in parts} == {(0, 1)}


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        *((name, 1) for name in ("dpo", "sft", "plackett_luce", "bradley_terry", "selm")),
        *((name, 1.5) for name in ("kto", "bco", "ce", "dro", "regression", "process")),
    ],
)
def test_what_counts_for_each_kind_of_loss(loss, size):
    """Ten groups of one and two responses in turn, or of one pair or ranking each; kto's responses of other prompts are
    only read.
    """
    assert examples_of(groups_for(loss), find_sum(loss).unit).total == 10 * size


def test_what_is_read_beside_the_examples_goes_with_every_part():
    group = next(g for g in groups_for("kto") if len(g.responses) == 3)
    examples = examples_of([group], "labelled")
    assert examples.total == 2
    for start in range(2):
        part, kept = taken([group], Part(0, start, start + 1), examples)
        assert kept == (start, 2)
        assert [r.label is None for r in part.responses] == [False, True]


def test_members_point_into_the_whole_groups():
    groups = shared_prompts(2, 4)
    examples = examples_of(groups, "labelled")
    batch = packed(groups, [Part(1, 2, 4), Part(0, 0, 1)], examples)
    assert batch.members == ((1, 2), (1, 3), (0, 0))
    alone = pack([TokenGroup(groups[1].prompt_ids, groups[1].responses[2:], False, "")])
    assert batch.targets[: len(alone.targets)].tolist() == alone.targets.tolist()


def test_sixty_four_means_sixty_four_responses(tmp_path):
    """32 prompts with four labelled responses: two steps of 64, and not one of 32 prompts with 128."""
    groups = shared_prompts(32, 4)
    config = small_config(tmp_path, batch_size=64, epochs=1.0)
    examples = examples_of(groups, "labelled")
    assert total_steps(config, examples.total) == 2
    train_small(tmp_path / "run", loss="bco", groups=groups, batch_size=64, epochs=1.0, tokens_per_batch=500)
    assert [line["epoch"] for line in lines_of(tmp_path / "run")] == [0.5, 1.0]


@pytest.mark.parametrize("loss", ["kto", "bco", "ce", "dro", "process"])
def test_sums_over_micro_batches_stay_exact_where_groups_are_cut(tmp_path, loss):
    """Batches of three cut groups of two; a pass of many micro-batches ends as one of a single one."""
    groups = groups_for(loss)
    options = {"loss": loss, "groups": groups, "batch_size": 4, "max_steps": 5}
    one, _ = train_small(tmp_path / "one", tokens_per_batch=10_000, **options)
    many, _ = train_small(tmp_path / "many", tokens_per_batch=25, **options)
    for name, value in weights_of(one).items():
        np.testing.assert_allclose(weights_of(many)[name].numpy(), value.numpy(), rtol=0, atol=1e-9)


def test_a_step_with_part_of_a_group_has_the_loss_of_those_responses_alone(tmp_path):
    """ce is a mean over responses: a step of three from a group of four has the mean of its three."""
    groups = shared_prompts(1, 4)
    _, summary = train_small(tmp_path / "cut", loss="ce", groups=groups, batch_size=3, max_steps=1, schedule="constant")
    first = TokenGroup(groups[0].prompt_ids, groups[0].responses[:3], False, groups[0].where)
    _, alone = train_small(tmp_path / "own", loss="ce", groups=[first], batch_size=3, max_steps=1, schedule="constant")
    assert summary.last["loss"] == pytest.approx(alone.last["loss"], rel=1e-12)
    assert summary.last["grad_norm"] == pytest.approx(alone.last["grad_norm"], rel=1e-9)
