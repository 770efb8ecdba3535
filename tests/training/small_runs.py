"""Runs of the training loop on a tiny GPT-NeoX in float64 and random pairs: seconds long, exact to the last digits.

GPT-NeoX, because its norms are computed in the type of its weights; most other families take theirs in float32.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from tokenq.core.losses import find_sum
from tokenq.core.losses.units import UNITS
from tokenq.core.packing import at_own_state, last_token, step_ends
from tokenq.data.signals import with_margins
from tokenq.data.stretches.steps import deciding_steps
from tokenq.jobs.training.policy_files import PolicyWriter
from tokenq.listener import Silence
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.packed_lm import PackedLM, is_peft
from tokenq.models.forward.policy import frozen_model, logits_of, no_grad, without_adapter
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.models.identity import identify
from tokenq.models.load import add_lora, make_deterministic
from tokenq.models.reference_store import ReferenceStore
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.rundir import RunDir, resume_run
from tokenq.training.config import TrainConfig
from tokenq.training.job import Job, Summary
from tokenq.training.loop import fit
from tokenq.training.objective import Objective
from tokenq.training.source import Offline

COST = {"tokens_per_second", "seconds", "peak_memory_gb"}
COST |= {f"seconds/{phase}" for phase in ("writer", "judge", "trainer", "outside", "outside_share")}
"""Metrics that are never the same twice."""


class Hears(Silence):
    """A listener that takes events to a function, and lines to none."""

    def __init__(self, heard):
        self.heard = heard

    def __call__(self, event):
        self.heard(event)


def random_pairs(count, seed=0):
    """Return pairs of random tokens with prompts of 2 to 11 and responses of 1 to 9 tokens."""
    rng = np.random.default_rng(seed)

    def response(role):
        n = int(rng.integers(1, 10))
        return TokenResponse(rng.integers(0, 200, n).astype(np.int32), np.ones(n, dtype=bool), True, role)

    def pair(i):
        prompt = rng.integers(0, 200, int(rng.integers(2, 12))).astype(np.int32)
        return TokenGroup(prompt, (response("chosen"), response("rejected")), True, f"pairs.jsonl, row {i + 1}")

    return [pair(i) for i in range(count)]


def step_places(config, count, step):
    """Return the places of the pairs that an update sees."""
    source = Offline(random_pairs(count), UNITS["pairs"], config.batch_size, config.seed)
    return [part.place for part in source.step(step)]


def groups_for(loss, count=10, seed=0):
    """Return random data of the form that a loss trains on, with all that it reads beside."""
    groups = rows_for(loss, count, seed)
    return with_random_outcomes(groups, seed) if "outcomes" in find_sum(loss).inputs else groups


def with_random_outcomes(groups, seed=0):
    """Return the groups with responses that are right, wrong or something between."""
    rng = np.random.default_rng([seed, 2])
    return [g.map(lambda one: one.with_response_column("outcomes", rng.choice([0.0, 0.25, 1.0]))) for g in groups]


def rows_for(loss, count, seed):
    """Return the same without outcomes."""
    rng = np.random.default_rng([seed, 1])

    def beside(group):
        steps, responses = [], []
        for response in group.responses:
            n = len(response.ids)
            steps.append(np.sort(rng.integers(0, 3, n)).astype(np.int32))
            responses.append(response.with_token_column("token_weights", rng.random(n, np.float32) + 0.5))
        return deciding_steps(replace(group, responses=tuple(responses)), steps)

    groups = [beside(group) for group in random_pairs(count, seed)]
    if find_sum(loss).output == "rewards":
        return rewarded(groups, find_sum(loss).unit.name, rng)
    extra = [g.responses[0] for g in random_pairs(count, seed + 100)]
    want = find_sum(loss).selection
    if want == "calibrated":
        calibration = [replace(one, role="calibration") for one in extra]
        return [replace(g, responses=(*map(bare, g.responses), r)) for g, r in zip(groups, calibration, strict=True)]
    if want == "ranked":
        some = [(*g.responses, r)[: 2 + i % 2] for i, (g, r) in enumerate(zip(groups, extra, strict=True))]
        return [replace(g, responses=ranked(rs), is_pair=False) for g, rs in zip(groups, some, strict=True)]
    if want == "rewarded":
        rewards = iter(rng.normal(size=2 * count))
        some = [g.responses[: 1 + i % 2] for i, g in enumerate(groups)]
        rated = [
            tuple(replace(r.with_response_column("rewards", next(rewards)), role="plain") for r in rs) for rs in some
        ]
        return [replace(g, responses=rs, is_pair=False) for g, rs in zip(groups, rated, strict=True)]
    if want == "rollouts":
        some = [g.responses[: 1 + i % 2] for i, g in enumerate(groups)]
        return [
            replace(g, responses=tuple(map(written(rng), rs)), is_pair=False)
            for g, rs in zip(groups, some, strict=True)
        ]
    if want == "weighted":
        some = [(*g.responses, r)[: 2 + i % 2] for i, (g, r) in enumerate(zip(groups, extra, strict=True))]
        return [replace(g, responses=weighted(rs, rng), is_pair=False) for g, rs in zip(groups, some, strict=True)]
    if want == "labelled":
        found = []
        for i, (g, r) in enumerate(zip(groups, extra, strict=True)):
            roles = ["chosen" if (i + k) % 3 else "rejected" for k in range(2)]
            labelled = [replace(one, role=roles[k]) for k, one in enumerate(g.responses[: 1 + i % 2])]
            mismatched = [replace(r, role="mismatched")] if "mismatched" in find_sum(loss).inputs else []
            found.append(replace(g, responses=(*labelled, *mismatched), is_pair=False))
        return found
    if want == "responses":
        return [replace(g, responses=(replace(g.responses[0], role="plain"),), is_pair=False) for g in groups]
    return groups


def written(rng):
    """Return a function that gives a response what policy gradients read beside its tokens."""

    def beside(response):
        n = len(response.ids)
        columns = {name: rng.normal(size=n).astype(np.float32) for name in ("advantages", "returns", "old_values")}
        old = np.log(rng.uniform(size=n) / 200).astype(np.float32)
        return replace(response, role="plain", token_columns={**columns, "old_logps": old})

    return beside


def weighted(responses, rng):
    """Return responses with weights that sum to 1."""
    weights = rng.dirichlet(np.ones(len(responses)))

    def beside(response, weight):
        old = np.log(rng.uniform(size=len(response.ids)) / 200).astype(np.float32)
        columns = {"old_logps": old, "target_weights": np.full(len(response.ids), weight, np.float32)}
        return replace(response, role="plain", token_columns=columns)

    return tuple(map(beside, responses, weights))


def bare(response):
    """Return a response without columns."""
    return replace(response, token_columns={})


def ranked(responses):
    """Return responses with the roles of a ranking, the best first."""
    roles = ["chosen", *["plain"] * (len(responses) - 2), "rejected"]
    return tuple(replace(response, role=role) for response, role in zip(responses, roles, strict=True))


def rewarded(groups, unit, rng):
    """Return the groups as a reward model trains on them: with margins, ratings (some missing) or labelled steps."""
    if unit == "pairs":
        return [
            at_own_state(g, last_token)
            for g in with_margins([replace(g, margin=float(i % 3)) for i, g in enumerate(groups)])
        ]

    def beside(response, place):
        n = len(response.ids)
        labels = np.where(rng.random(n) < 0.5, -1, rng.integers(0, 2, n)).astype(np.int8)
        labels[-1] = place % 2
        ratings = np.array([place, np.nan if place % 3 == 0 else place / 2], np.float32)
        return response.with_token_column("step_labels", labels).with_response_column("ratings", ratings)

    given = [
        replace(g, is_pair=False, responses=tuple(beside(r, i + k) for k, r in enumerate(g.responses[: 1 + i % 2])))
        for i, g in enumerate(groups)
    ]
    return [at_own_state(g, step_ends if unit == "steps" else last_token) for g in given]


def small_reward_model(outputs=1, *, way="segments", dtype=torch.float64):
    """Return a classifier on a tiny GPT-NeoX, with weights of its own in the head; the same each time."""
    config = tiny_model("gpt_neox", layers=1).config
    config.num_labels = outputs
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.gpt_neox.load_state_dict(tiny_model("gpt_neox", layers=1).gpt_neox.state_dict())
    model.score.weight.data.normal_(std=0.1)
    make_deterministic(model)
    return RewardLM(PackedLM(model.to(dtype), way))


def policy_for(loss, way="segments"):
    """Return what a loss trains: a policy, or a reward model."""
    found = find_sum(loss)
    if found.output == "rewards":
        return small_reward_model(2 if found.unit.name == "rated" else 1, way=way)
    return small_policy(way=way)


def small_config(output, **changes):
    """Return settings under which a few steps move every number visibly."""
    settings = {"batch_size": 4, "tokens_per_batch": 1000, "learning_rate": 3e-3, "epochs": 2.0} | changes
    return TrainConfig(model="tiny", data=["pairs.jsonl"], output=str(output), device="cpu", **settings)


def small_policy(lora=False, *, dropout=0.0, family="gpt_neox", way="segments", layers=1, dtype=torch.float64):
    """Return a tiny model, with a fresh adapter when asked for; the same each time."""
    model = tiny_model(family, layers=layers, dtype=dtype)
    make_deterministic(model)
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, rank=2, alpha=4.0, dropout=dropout, targets="all-linear").to(dtype)
    return PackedLM(model, way)


def files_of(policy, config, form="as_trained"):
    """Return how checkpoints of a run hold a policy."""
    return PolicyWriter(policy, tiny_tokenizer(), config, RunDir(Path(config.output)), form).files()


def stored_reference(policy, *parts):
    """Return a store with the log-probs of the policy as it is, its adapter off."""
    store = ReferenceStore(None, identify(policy.model, "tiny"))
    policy.model.eval()
    with without_adapter(policy.model):
        for groups in parts:
            store.fill(groups, no_grad(policy), 500)
    return store


def train_small(
    output,
    *,
    loss="dpo",
    groups=None,
    held_out=(),
    policy=None,
    lora=False,
    reference=None,
    online=None,
    move=lambda step: None,
    source=None,
    start_tolerance=1e-5,
    stop=None,
    accelerator=None,
    parameters=None,
    **changes,
) -> tuple[PackedLM, Summary]:
    """Train on ten pairs and return the policy (without the networks beside it) and the summary.

    Args:
        output: run directory.
        loss: name of the loss.
        groups: the data; ten random pairs when None.
        held_out: pairs to evaluate on.
        policy: what to train, `PolicyNetworks` to see those beside it afterwards; `small_policy` when None.
        lora: whether to train an adapter.
        reference: a store; one with the policy's own log-probs when None.
        source: gives the examples of a step; the data in their order when None.
        online: computes the reference's log-probs in every step, in place of a store.
        move: moves that reference.
        start_tolerance: as in `Job`; by default what float32 in the store allows.
        stop: (stage, done) of the event at which an exception stops the run from outside.
        accelerator: a plain one on CPU when None.
        parameters: of the loss.
        changes: settings that differ from `small_config`.
    """
    groups = random_pairs(10) if groups is None else groups
    row = find_sum(loss, parameters)
    networks = policy if isinstance(policy, PolicyNetworks) else None
    policy = networks.policy if networks else policy or (small_policy(lora) if lora else policy_for(loss))
    networks = networks or (PolicyNetworks(policy, row.networks) if row.networks else None)
    objective = Objective(row, row.beta if row.networks else 0.1, ("first", "second"))
    if row.output == "logps" and online is None:
        store = reference or stored_reference(policy, groups, held_out)
        groups, held_out = store.with_logps(groups), store.with_logps(held_out)

    def stop_there(event):
        if (event.stage, event.done) == stop:
            raise KeyboardInterrupt

    logits, config = None, small_config(output, loss=loss, **changes)
    if "ref_kls" in row.inputs:
        logits = logits_of(policy, "off") if is_peft(policy.model) else logits_of(frozen_model(policy))
    job = Job(
        policy=networks or policy,
        source=source or Offline(groups, row.unit, config.batch_size, config.seed),
        objective=objective,
        config=config,
        run=resume_run(Path(output)),
        files=files_of(policy, config),
        evaluation=held_out,
        reference=online,
        ref_logits=logits,
        start_tolerance=start_tolerance,
        move=move,
        networks=networks.beside() if networks else {},
        work=policy.work,
        listener=Hears(stop_there),
    )
    return policy, fit(job, accelerator or Accelerator(cpu=True))


def weights_of(policy):
    """Return a copy of all weights."""
    return {name: value.clone() for name, value in policy.state_dict().items()}


def lines_of(output):
    """Return the lines of `metrics.jsonl`, without what a run costs and what is null."""
    lines = (json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in COST and v is not None} for line in lines]
