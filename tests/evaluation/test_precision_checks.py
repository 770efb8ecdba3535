"""Updates that are too small for the type of the weights: the arithmetic by hand, and a run of that kind."""

from dataclasses import replace

import pytest
import torch
from recorded_runs import found, healthy_dpo, with_config
from safetensors.torch import save_file

from tokenq.doctor.precision_checks import doubtful, half_spacing, out_of_reach, update_size, updated_in
from tokenq.models.movement import movement, reached
from tokenq.runs.facts import Moved


def trained_in(dtype, rate=1e-6, precision=None, **config):
    """Return a healthy run whose weights were of a type, with this peak of the learning rate."""
    record = with_config(healthy_dpo(), **config)
    model = {**record.provenance["model"], "dtype": dtype, "parameters": 10_000}
    steps = tuple({**line, "learning_rate": rate} for line in record.steps)
    told = {**record.provenance, "model": model} | ({} if precision is None else {"precision": precision})
    return replace(record, steps=steps, provenance=told)


def test_half_spacings_by_hand():
    """0.02 lies between 2⁻⁶ and 2⁻⁵: its neighbour in bfloat16 is 2⁻⁶⁻⁷ away; 1.5 in float16 2⁻¹⁰."""
    assert half_spacing(0.02, "bfloat16") == 2**-14
    assert half_spacing(1.5, "float16") == 2**-11
    assert half_spacing(1.0, "float32") == 2**-24 == torch.finfo(torch.float32).eps / 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_spacing_is_that_of_torch(dtype):
    kind = getattr(torch, dtype)
    weight = torch.tensor([0.02]).to(kind)
    least = half_spacing(0.02, dtype)
    assert not reached(weight, 0.9 * least, dtype).item()
    assert reached(weight, 1.1 * least, dtype).item()


@pytest.mark.parametrize(("dtype", "rate"), [("bfloat16", 1e-6), ("float16", 1e-6), ("float32", 1e-11)])
def test_a_run_without_a_copy_is_told_so(dtype, rate):
    finding = found(trained_in(dtype, rate))["weights-out-of-reach"]
    assert finding.severity == "error"
    assert f"The weights are updated in {dtype}" in finding.found
    assert finding.evidence[0].value == rate


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        ("float32", {}),
        ("bfloat16", {"precision": {"weights": "bfloat16", "master": "float32"}}),
        ("bfloat16", {"precision": {"weights": "float32", "frozen": "bfloat16", "master": None}}),  # an adapter
        ("bfloat16", {"lora_rank": 8}),
        ("bfloat16", {"rate": 1e-4}),
    ],
)
def test_runs_whose_weights_can_move_are_not(dtype, more):
    assert "weights-out-of-reach" not in found(trained_in(dtype, **more))


def test_the_weights_decide_where_they_are_there():
    """Of a hundred weights one update moves four: the rest waits. Of a hundred it moves sixty: no finding."""
    record = trained_in("bfloat16")
    finding = found(replace(record, moved=Moved(100, 2, 4)))["weights-out-of-reach"]
    assert "too small to move 96 %" in finding.found
    assert [one.value for one in finding.evidence[2:]] == ["4 %", "2 %"]
    assert out_of_reach(replace(record, moved=Moved(100, 80, 60))) is None


def test_weights_are_looked_at_only_where_it_may_matter():
    """In float32 an update of 1e-6 is a thousand times what moves a weight of 0.02."""
    assert doubtful(trained_in("bfloat16", 1e-3))
    assert not doubtful(trained_in("float32", 1e-6))
    assert doubtful(trained_in("float32", 1e-8))
    assert not doubtful(healthy_dpo())  # which does not say its type


def test_the_step_of_sgd_is_that_of_its_gradient():
    """Clipped to 1, spread over 10,000 weights: 0.01 of the learning rate each."""
    record = trained_in("bfloat16", 1e-3, optimizer="sgd", max_grad_norm=0.5)
    assert update_size(record) == pytest.approx(1e-3 * 0.5 / 100)
    assert updated_in(record) == "bfloat16"
    assert "weights-out-of-reach" in found(record)


def test_counts_of_weights_by_hand(tmp_path):
    """An update of 2⁻¹⁰ reaches 0.1 (2⁻⁴⁻⁸ = 2⁻¹²) and 0.25, and not 1.0 upwards or down (2⁻⁹ below it), nor 8."""
    before = {"a": torch.tensor([0.1, 0.25, 1.0, 8.0]).bfloat16(), "only here": torch.ones(3)}
    save_file({"a": torch.tensor([0.1, 0.25, 1.0, 8.0]).bfloat16() + torch.tensor([0.125, 0, 0, 0]).bfloat16()},
              tmp_path / "model.safetensors")  # fmt: skip
    assert movement(before, tmp_path, 2**-10, "bfloat16") == (4, 1, 2)
