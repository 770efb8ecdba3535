"""Training runs for one of several `torch.distributed` processes; the first writes what they end with.

Every process calls `main` with the same folder; all runs share one start of the processes.
"""

import os
import signal
from dataclasses import replace

import small_runs
import torch
from accelerate import Accelerator
from small_runs import groups_for, random_pairs, small_policy, train_small, weights_of

from tokenq.core.losses import find_sum
from tokenq.errors import Interrupted, UserError
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.policy import MovingReference, frozen_model, no_grad

HELD_OUT = random_pairs(7, seed=5)


def poisoned_policy(place):
    """Return a policy that gives NaN, under a gradient, for one example of the data."""
    policy = small_policy()

    def poison(_module, arguments, output):
        batch = arguments[0]
        hit = torch.tensor([member == place for member, _ in batch.actions.members])[batch.actions.responses]
        logps = output.logps
        return output._replace(logps=logps.masked_fill(hit, torch.nan)) if logps.requires_grad else output

    policy.register_forward_hook(poison)
    return policy


def policy_apart(rank):
    """Return a policy that, on one of the processes, is not what its reference was."""
    policy = small_policy()
    if rank == 1:
        policy.register_forward_hook(
            lambda _module, _arguments, output: output._replace(logps=output.logps + output.logps.requires_grad * 0.1)
        )
    return policy


def terminated(out, rank):
    """Have one of the processes sent a signal within its second step, and resume the run."""
    options = {"max_steps": 4, "batch_size": 5, "tokens_per_batch": 60, "held_out": HELD_OUT}

    def send(event):
        if rank == 1 and (event.stage, event.done) == ("train", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    job = small_runs.Job
    small_runs.Job = lambda **fields: job(**{**fields, "listener": small_runs.Hears(send)})
    try:
        train_small(out, **options)
        said = None
    except Interrupted as stop:
        said = stop.said
    small_runs.Job = job
    return said, train_small(out, resume=True, **options)[0]


def demonstrations():
    """Return groups of one response each: their tokens, and with them the processes' shares of a step, differ."""
    return [replace(pair, responses=pair.responses[:1], is_pair=False) for pair in random_pairs(10)]


RUNS = {
    # Five pairs per step over two processes: uneven shares.
    "full": lambda out: train_small(out, batch_size=5, tokens_per_batch=60, max_steps=3, held_out=HELD_OUT),
    "adapter": lambda out: train_small(out, lora=True, tokens_per_batch=40, max_steps=3, save_steps=2),
    # One pair a step: one of the processes has nothing and must not count.
    "single": lambda out: train_small(out, batch_size=1, max_steps=2),
    "sft": lambda out: train_small(out, loss="sft", groups=demonstrations(), batch_size=5, tokens_per_batch=40),
    # Losses that see a whole step at once, on whatever process its parts are.
    "coupled": lambda out: coupled(out, "aot+0.5*tdpo2+0.3*sft"),
    "labelled": lambda out: coupled(out, "kto"),
    "valued": lambda out: accompanied(out, "dro"),
    "accompanied": lambda out: accompanied(out, "ppo+0.5*value+implicit_prm"),
    "accompanied and coupled": lambda out: accompanied(out, "kto+implicit_prm"),
    # A response a step: of the first three, some are wrong, and there is nothing to imitate.
    "accompanied and alone": lambda out: accompanied(out, "sft+implicit_prm", batch_size=1),
    # Held-out KL grows from step to step: the first evaluation is best, two more end the run.
    "best": lambda out: train_small(
        out,
        batch_size=5,
        max_steps=6,
        eval_steps=1,
        held_out=HELD_OUT,
        learning_rate=2e-2,
        keep_best="eval_kl",
        early_stopping_patience=2,
    ),
    "moving": lambda out: moving(out),
    # A reward model: errors and correlations over what both processes have read.
    "rated": lambda out: coupled(out, "regression"),
}


def moving(out):
    """Train against a reference that moves half-way to the policy before the third and the fifth update."""
    policy = small_policy()
    reference = frozen_model(policy)
    moves = MovingReference(dict(policy.named_parameters()), dict(reference.named_parameters()), every=2, alpha=0.5)
    options = {"policy": policy, "online": no_grad(reference), "move": moves.move}
    return train_small(out, **options, batch_size=5, tokens_per_batch=60, max_steps=5)


def accompanied(out, loss, batch_size=5):
    """Train networks beside the policy, and return all of them."""
    data = {
        "groups": groups_for(loss),
        "held_out": groups_for(loss, 7, seed=5),
        "start_tolerance": None,
        "batch_size": batch_size,
    }
    both = PolicyNetworks(small_policy(), find_sum(loss).networks)
    return both, train_small(out, loss=loss, policy=both, tokens_per_batch=30, max_steps=3, **data)[1]


def coupled(out, loss):
    """Train with a loss whose values depend on the other examples of the step; the last step is smaller."""
    data = {"groups": groups_for(loss), "held_out": groups_for(loss, 7, seed=5)}
    return train_small(out, loss=loss, batch_size=4, tokens_per_batch=30, epochs=1.0, start_tolerance=None, **data)


def interrupted(out):
    """Stop the run of an adapter after its checkpoint and resume it."""
    try:
        train_small(out, lora=True, tokens_per_batch=40, max_steps=3, save_steps=2, stop=("train", 3))
    except KeyboardInterrupt:
        Accelerator().wait_for_everyone()
    return train_small(out, lora=True, tokens_per_batch=40, max_steps=3, save_steps=2, resume=True)


def main(folder):
    """Do every run, and save what this process found; the exit code."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {}
    for name, run in RUNS.items():
        policy, _ = run(folder / name)
        found[name] = weights_of(policy)
    policy, summary = interrupted(folder / "resumed")
    found["resumed"] = weights_of(policy)
    found["resumed steps"] = summary.steps
    try:
        train_small(folder / "poisoned", policy=poisoned_policy(3), max_steps=3)
        found["error"] = None
    except UserError as error:
        found["error"] = str(error)
    try:
        train_small(folder / "apart", policy=policy_apart(accelerator.process_index), batch_size=5, max_steps=1)
        found["apart"] = None
    except UserError as error:
        found["apart"] = str(error)
    found["stopped"], policy = terminated(folder / "terminated", accelerator.process_index)
    found["terminated"] = weights_of(policy)
    torch.save(found, folder / f"found-{accelerator.process_index}.pt")
    return 0
