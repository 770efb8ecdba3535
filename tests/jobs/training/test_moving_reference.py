"""A reference that moves: numbers by hand, where it ends in exact worlds, resumed to the last bit, refused in words."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.errors import UserError
from tokenq.models.forward.policy import MovingReference
from tokenq.verify.claim import Case
from tokenq.verify.learning import all_pairs
from tokenq.verify.online import distance
from tokenq.worlds.draws import generator, normal, small
from tokenq.worlds.mdp import build, log_softmax
from tokenq.worlds.soft_q import solve
from tokenq.worlds.tabular import TabularLM, fit

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_move(dtype):
    """0.75 · 1 + 0.25 · 3 = 1.5, and from there to 3: 0.75 · 1.5 + 0.25 · 3 = 1.875."""
    policy, reference = torch.tensor([3.0, 0.1], dtype=dtype), torch.tensor([1.0, 0.3], dtype=dtype)
    moving = MovingReference({"w": policy}, {"w": reference}, every=3, alpha=0.25)
    seen = []
    for step in range(7):
        moving.move(step)
        seen.append(float(reference[0]))
    assert seen == [1.0, 1.0, 1.0, 1.5, 1.5, 1.5, 1.875]
    replace(moving, alpha=1.0).move(3)
    assert torch.equal(reference, policy)


def one_step(seed):
    """Return a world of single tokens, in which a mixture of logits is one of responses."""
    world = build(vocab_size=5, horizon=1, beta=0.5)
    rewards, logits = normal((2, world.n_states, 5), generator(seed))
    return replace(world, rewards=rewards * world.choice[:, None], reference_logps=log_softmax(logits, world))


def after_moves(case, alpha, moves):
    """Return log π after so many moves of the reference, DPO converged on population pairs before and after each."""
    pairs, weights = all_pairs(case, case.returns)
    reference = TabularLM(case.world)
    for left in range(moves, -1, -1):
        policy = TabularLM(case.world)
        found = fit(
            TabularLM(replace(case.world, reference_logps=reference.table().detach())), case.sequences, pairs, weights
        )
        policy.logits.data = found.nan_to_num(neginf=0.0)
        if left:
            MovingReference(dict(policy.named_parameters()), dict(reference.named_parameters()), 1, alpha).move(1)
    return found


@pytest.mark.parametrize(("kind", "alpha", "exponent"), [(small, 1.0, 3.0), (one_step, 1.0, 3.0), (one_step, 0.6, 2.2)])
def test_where_two_moves_end(kind, alpha, exponent):
    """π_ref exp((1 + α t) r/β): each move puts α of what was learnt into the reference; t = 2."""
    for seed in (0, 1):
        case = Case.of(kind(seed), seed)
        wanted = solve(replace(case.world, rewards=exponent * case.world.rewards)).logps
        assert distance(case, after_moves(case, alpha, 2), wanted) < 1e-5


ROWS = [
    {"prompt": f"{n // 10} {n % 10}?", "chosen": f" {n % 9}.", "rejected": f" {n % 9 + 1} {n % 7}."} for n in range(12)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in a folder and pairs in a file."""
    root = tmp_path_factory.mktemp("moving")
    tiny_model("llama", layers=1).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def train(place, name, **settings):
    given = {
        "batch_size": 4,
        "learning_rate": 1e-2,
        "device": "cpu",
        "max_steps": 8,
        "schedule": "constant",
        **settings,
    }
    return tokenq.train(place / "model", place / "pairs.jsonl", place / name, **given)


MOVES = {"reference_sync_steps": 3, "save_steps": 1, "keep_checkpoints": 9}
FORMS = {
    "all": ({"reference_mixup_alpha": 0.5}, "model"),
    "adapter": ({"lora_rank": 2, "lora_dropout": 0.1}, "adapter_model"),
}


@pytest.fixture(scope="module", params=FORMS)
def run(request, place):
    """A run of 8 steps whose reference moves before the 4th and the 7th update, with a checkpoint of each."""
    settings, weights = FORMS[request.param]
    return train(place, request.param, **MOVES, **settings), settings, weights


def beside(run, step):
    return load_file(run.folder / "checkpoints" / f"step-{step}" / "state" / "weights.safetensors")


def test_checkpoints_hold_the_reference_as_it_is(place, run):
    made, _, weights = run
    first = load_file(place / "model" / "model.safetensors")
    if weights == "model":
        name = "model.layers.0.self_attn.q_proj.weight"
        policy = {step: load_file(made.checkpoint(step).folder / "model.safetensors")[name] for step in (3, 6)}
        references = {step: beside(made, step)[f"reference.model.{name}"] for step in range(1, 9)}
        second = 0.5 * (first[name] + policy[3])
        wanted = [*[first[name]] * 3, *[second] * 3, *[0.5 * (second + policy[6])] * 2]
        torch.testing.assert_close(list(references.values()), wanted, rtol=0, atol=1e-7)
        assert not torch.allclose(second, first[name], atol=1e-3)
    else:
        short = "base_model.model.model.layers.0.self_attn.q_proj.lora_B"
        policy = {
            step: load_file(made.checkpoint(step).folder / f"{weights}.safetensors")[f"{short}.weight"]
            for step in (3, 6)
        }
        references = [beside(made, step)[f"reference.model.{short}.default.weight"] for step in range(1, 9)]
        assert not any(one.any() for one in references[:3])
        assert all(torch.equal(one, policy[3]) for one in references[3:6])
        assert all(torch.equal(one, policy[6]) for one in references[6:])


def test_rewards_are_against_the_reference_of_the_step(run):
    """Where the policy becomes the reference, the loss of the next update is ln 2 again."""
    made, _, weights = run
    losses = [line["loss"] for line in made.metrics]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert abs(losses[2] - 0.693147) > 1e-3
    assert (losses[3] == pytest.approx(0.693147, abs=1e-5)) == (weights == "adapter")


@pytest.mark.parametrize("step", [5, 6])
def test_a_resumed_run_is_the_same_to_the_last_bit(place, run, step):
    """From a checkpoint between two moves, and from one at which a move is due."""
    made, settings, weights = run
    copied = place / f"resumed-{weights}-{step}"
    shutil.copytree(made.folder, copied)
    shutil.rmtree(copied / "policy")
    for later in range(step + 1, 9):
        shutil.rmtree(copied / "checkpoints" / f"step-{later}")
    again = train(place, copied.name, **MOVES, **settings, resume=True)
    assert (again.policy / f"{weights}.safetensors").read_bytes() == (
        made.policy / f"{weights}.safetensors"
    ).read_bytes()
    assert all(torch.equal(beside(again, 8)[name], one) for name, one in beside(made, 8).items())


def test_what_is_recorded(place, run):
    """Config and card say that it moved; what the run is read against is the reference that it began with."""
    made, settings, _ = run
    record = json.loads((made.folder / "provenance.json").read_text())
    alpha = settings.get("reference_mixup_alpha", 1.0)
    assert (record["config"]["reference_sync_steps"], record["config"]["reference_mixup_alpha"]) == (3, alpha)
    assert f"moved every 3 steps by {alpha:g} of the way to the policy" in (made.policy / "README.md").read_text()
    still = train(
        place, f"still-{alpha:g}", **{**settings, "reference_mixup_alpha": None}, max_steps=1, reference_store="off"
    )
    assert json.loads((still.folder / "provenance.json").read_text())["reference"] == record["reference"]


def test_another_reference_moves_as_well(place):
    made = train(place, "named", **MOVES, reference=place / "model", max_steps=4)
    moved, start = beside(made, 4), load_file(place / "model" / "model.safetensors")
    policy = load_file(made.checkpoint(3).folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(
        moved[f"reference.model.{name}"], 0.4 * start[name] + 0.6 * policy[name], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reference_mixup_alpha": 0.5}, "the reference never moves"),
        ({"reference_sync_steps": 2, "reference_store": "store"}, "keeps log-probs of one reference"),
        ({"reference_sync_steps": 2, "lora_rank": 2, "reference_mixup_alpha": 0.5}, "not part of the way"),
        ({"reference_sync_steps": 2, "loss": "simpo"}, "no reference that could move"),
        ({"reference_sync_steps": 2, "lora_rank": 2, "loss": "tdpo1"}, "reads all logits of its reference"),
        ({"reference_sync_steps": 2, "lora_rank": 2, "reference": "MODEL"}, "which has no model.base_model"),
        ({"reference_sync_steps": 0}, "--reference-sync-steps"),
        ({"reference_sync_steps": 1, "reference_mixup_alpha": 1.1}, "--reference-mixup-alpha"),
    ],
)
def test_what_cannot_move_is_refused(place, settings, said):
    settings = {name: place / "model" if value == "MODEL" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=said):
        train(place, "refused", **settings)
    assert not (place / "refused" / "config.yaml").exists()
