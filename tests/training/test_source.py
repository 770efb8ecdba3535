"""A batch counts what the loss counts: exactly so many responses, where prompts are shared too, each once a pass."""

from dataclasses import replace

import numpy as np
import pytest
from small_runs import groups_for, lines_of, random_pairs, small_config, step_places, train_small, weights_of

from tokenq.core.losses import find_sum
from tokenq.core.losses.units import UNITS
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup
from tokenq.training.source import Offline, Part, pack_parts, total_steps

SIZES = np.array([4, 1, 4, 2])


def shared_prompts(count, each, *, labels=True):
    """Return prompts with so many labelled responses each."""
    groups = []
    for place, pair in enumerate(random_pairs(count)):
        more = [one.responses[k % 2] for k, one in enumerate(random_pairs(each, seed=place + 1)[:each])]
        roles = [("rejected", "chosen")[k % 2] if labels else "plain" for k in range(each)]
        marked = [replace(one, role=role) for one, role in zip(more, roles, strict=True)]
        groups.append(TokenGroup(pair.prompt_ids, tuple(marked), False, pair.where))
    return groups


def sized(sizes, batch):
    """Return labelled data with so many examples in each group."""
    most = shared_prompts(len(sizes), max(*sizes, 1))
    groups = [replace(g, responses=(*g.responses[:n], other(g))) for g, n in zip(most, sizes, strict=True)]
    return Offline(groups, UNITS["labelled"], batch, 0)


def other(group):
    """Return a response that is only read beside the examples."""
    return replace(group.responses[0], role="mismatched")


def taken(parts):
    """Return (group, its first example, one past its last) of each part."""
    assert all(part.group.responses[-1].role == "mismatched" for part in parts)
    return [(part.place, part.responses[0], part.responses[-2] + 1) for part in parts]


def test_groups_are_cut_where_a_step_is_full():
    """In the order 2, 0, 1, 3 the eleven examples are 2222 0000 1 33: threes of them by hand."""
    order, source = np.array([2, 0, 1, 3]), sized(SIZES, 3)
    assert taken(source.cut(order, 0)) == [(2, 0, 3)]
    assert taken(source.cut(order, 3)) == [(2, 3, 4), (0, 0, 2)]
    assert taken(source.cut(order, 6)) == [(0, 2, 4), (1, 0, 1)]
    assert taken(source.cut(order, 9)) == [(3, 0, 2)]
    assert taken(sized(SIZES, 100).cut(order, 0)) == [(2, 0, 4), (0, 0, 4), (1, 0, 1), (3, 0, 2)]


def test_groups_without_an_example_are_passed_over():
    assert taken(sized([2, 0, 1], 2).cut(np.arange(3), 1)) == [(0, 1, 2), (2, 0, 1)]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 64])
def test_every_epoch_takes_every_response_once(batch):
    source = sized(SIZES, batch)
    steps = source.per_epoch
    assert steps == -(-11 // batch)
    for epoch in range(2):
        parts = [taken(source.step(epoch * steps + step)) for step in range(steps)]
        counts = [sum(stop - start for _, start, stop in step) for step in parts]
        assert counts == [batch] * (11 // batch) + [11 % batch] * (11 % batch > 0)
        seen = sorted((place, i) for step in parts for place, start, stop in step for i in range(start, stop))
        assert seen == [(place, i) for place, size in enumerate(SIZES) for i in range(size)]


def test_a_pass_in_order_takes_the_same():
    steps = [taken(parts) for parts in sized(SIZES, 3).in_order()]
    assert steps == [[(0, 0, 3)], [(0, 3, 4), (1, 0, 1), (2, 0, 1)], [(2, 1, 4)], [(3, 0, 2)]]


def test_pairs_are_taken_as_whole_groups(tmp_path):
    config = small_config(tmp_path)
    parts = Offline(random_pairs(10), UNITS["pairs"], config.batch_size, config.seed).step(1)
    assert [part.place for part in parts] == step_places(config, 10, 1)
    assert {part.responses for part in parts} == {(0, 1)}


def test_a_step_is_the_same_whatever_was_asked_before():
    one, other = (sized(SIZES, 3) for _ in range(2))
    wanted = [taken(one.step(step)) for step in range(8)]
    assert [taken(other.step(step)) for step in reversed(range(8))] == wanted[::-1]


class Endless:
    """Pairs that never come to an end: those of step n are drawn from n alone."""

    per_epoch = None

    def step(self, number):
        return [Part(group, place, (0, 1)) for place, group in enumerate(random_pairs(4, seed=number))]


def test_the_loop_asks_nothing_else_of_a_source(tmp_path):
    """No length of an epoch: the run has the steps that were asked for, no share of an epoch, and a last checkpoint."""
    train_small(tmp_path, loss="simpo", source=Endless(), max_steps=3, start_tolerance=None)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert not any("epoch" in line for line in lines)
    for line in lines:
        sizes = [len(group.responses[0].ids) for group in random_pairs(4, seed=line["step"] - 1)]
        assert line["response_length/chosen"] == pytest.approx(sum(sizes) / 4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]
    with pytest.raises(UserError, match="no known end"):
        train_small(tmp_path / "epochs", loss="simpo", source=Endless(), start_tolerance=None)


@pytest.mark.parametrize(
    ("loss", "size"),
    [
        *((name, 1) for name in ("dpo", "sft", "plackett_luce", "steerlm", "bradley_terry", "selm")),
        *((name, 1.5) for name in ("kto", "bco", "ce", "dro", "regression", "process")),
    ],
)
def test_what_counts_for_each_kind_of_loss(loss, size):
    """Ten groups of one and two responses in turn, or of one pair or ranking each; kto's responses of other prompts are
    only read.
    """
    assert Offline(groups_for(loss), find_sum(loss).unit, 4, 0).total == 10 * size


def test_what_is_read_beside_the_examples_goes_with_every_part():
    group = next(g for g in groups_for("kto") if len(g.responses) == 3)
    source = Offline([group], UNITS["labelled"], 1, 0)
    assert source.total == 2
    for start, (part,) in enumerate(source.in_order()):
        assert part.responses == (start, 2)
        assert [r.role == "mismatched" for r in part.group.responses] == [False, True]


def test_members_point_into_the_whole_groups():
    groups = shared_prompts(2, 4)
    source = Offline(groups, UNITS["labelled"], 3, 0)
    batch = pack_parts([source.part(1, 2, 4), source.part(0, 0, 1)])
    assert batch.actions.members == ((1, 2), (1, 3), (0, 0))
    alone = pack([TokenGroup(groups[1].prompt_ids, groups[1].responses[2:], False, "")])
    assert batch.targets[: len(alone.targets)].tolist() == alone.targets.tolist()


def test_sixty_four_means_sixty_four_responses(tmp_path):
    """32 prompts with four labelled responses: two steps of 64, and not one of 32 prompts with 128."""
    groups = shared_prompts(32, 4)
    config = small_config(tmp_path, batch_size=64, epochs=1.0)
    assert total_steps(config, Offline(groups, UNITS["labelled"], 64, config.seed).per_epoch) == 2
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
