"""Runs of the training loop on a tiny Llama in float64 and random pairs: seconds long, exact to the last digits."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from tokenq.core.losses import find_loss
from tokenq.models.forward import PackedLM
from tokenq.models.load import add_lora, identify
from tokenq.models.policy import no_grad
from tokenq.models.reference_store import ReferenceStore
from tokenq.records import TokenGroup, TokenResponse
from tokenq.rundir import resume_run
from tokenq.train.config import TrainConfig
from tokenq.train.loop import Job, Scored, Summary, fit
from tokenq.train.objective import Objective
from tokenq.worlds.tiny import tiny_model


def random_pairs(count, seed=0):
    """Return pairs of random tokens with prompts of 2 to 11 and responses of 1 to 9 tokens."""
    rng = np.random.default_rng(seed)

    def response():
        n = int(rng.integers(1, 10))
        return TokenResponse(rng.integers(0, 200, n).astype(np.int32), np.ones(n, dtype=bool), terminal=True)

    def pair(i):
        prompt = rng.integers(0, 200, int(rng.integers(2, 12))).astype(np.int32)
        return TokenGroup(prompt, (response(), response()), True, f"pairs.jsonl, row {i + 1}")

    return [pair(i) for i in range(count)]


def small_config(output, **changes):
    """Return settings under which a few steps move every number visibly."""
    settings = {"batch_size": 4, "tokens_per_batch": 1000, "learning_rate": 3e-3, "epochs": 2.0} | changes
    return TrainConfig(model="tiny", data=["pairs.jsonl"], output=str(output), device="cpu", **settings)


def small_policy(lora=False):
    """Return a tiny Llama in float64, with a fresh adapter when asked for."""
    model = tiny_model("llama", dtype=torch.float64)
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear").double()
    return PackedLM(model, "segments")


def train_small(
    output, *, loss="dpo", groups=None, lora=False, policy=None, stop_at=None, **changes
) -> tuple[PackedLM, Summary]:
    """Train on ten pairs and return the policy and the summary.

    Args:
        output: run directory.
        loss: name of the loss.
        groups: the data; ten random pairs when None.
        lora: whether to train an adapter.
        policy: what to train; `small_policy` when None.
        stop_at: the step after which an exception stops the run from outside.
        changes: settings that differ from `small_config`.
    """
    groups = random_pairs(10) if groups is None else groups
    policy = policy or small_policy(lora)
    store = ReferenceStore(None, identify(policy.model, "tiny"))
    store.fill(groups, no_grad(policy), 500)

    def listener(event):
        if event.stage == "train" and event.done == stop_at:
            raise KeyboardInterrupt

    config = small_config(output, loss=loss, **changes)
    job = Job(
        policy=policy,
        data=Scored(groups, store.scorer(groups)),
        objective=Objective(find_loss(loss), 0.1),
        config=config,
        run=resume_run(Path(output)),
        start_tolerance=1e-5,  # the store keeps float32
        listener=listener,
    )
    # The adapter of a real run goes through the same hooks: checkpoints hold what is trained.
    return policy, fit(job, Accelerator(cpu=True))
