"""Training runs for one process of `accelerate launch`, with the policy spread over the processes.

Run as a program with a folder and the names of runs as arguments. accelerate shards on accelerators only; on a machine
without one it is told here that processes of a CPU may do the same.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import PartialState, parse_flag_from_env
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from small_runs import groups_for, random_pairs, small_policy, train_small
from tiny import tiny_tokenizer

from tokenq.models.export import export_policy
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.policy import no_grad

HELD_OUT = random_pairs(5, seed=7)

POLICIES = {
    "gpt_neox": lambda dtype: small_policy(dtype=dtype),
    "gemma3": lambda dtype: small_policy(family="gemma3", dtype=dtype),  # tied head
    "adapter": lambda dtype: small_policy(lora=True, dtype=dtype),
    "checkpointed": lambda dtype: checkpointed(small_policy(family="llama", dtype=dtype)),
    "online-adapter": lambda dtype: small_policy(lora=True, dtype=dtype),
    "distributions": lambda dtype: small_policy(dtype=dtype),
    "distributions-adapter": lambda dtype: small_policy(lora=True, dtype=dtype),
    "values": lambda dtype: PolicyNetworks(small_policy(dtype=dtype), ["values"]),
    "networks": lambda dtype: PolicyNetworks(small_policy(dtype=dtype), ["values", "prm"]),
}

LOSSES = {
    **{name: "tdpo2" for name in ("distributions", "distributions-adapter")},
    **{"values": "dro", "networks": "ppo+0.5*value+implicit_prm"},
}
"""Losses other than DPO, by the name of the run: one that reads the reference's logits in every step, and two with
networks, whose gradients are clipped apart from the policy's.
"""

BESIDE = {"values": {}, "networks": {"value_learning_rate": 1e-2, "prm_learning_rate": 1e-3}}
"""Settings of runs with networks beside the policy."""


def checkpointed(policy):
    policy.lm.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def run(output, name, dtype, **more):
    """Do one of the runs."""
    settings = {"tokens_per_batch": 60, "max_steps": 4, "save_steps": 2, "held_out": HELD_OUT, "start_tolerance": 1e-3}
    policy = POLICIES[name](dtype)
    if name == "online-adapter":  # the reference is computed in every step, and not stored
        more["online"] = no_grad(policy, "off")
    if name in BESIDE:
        more |= {"groups": groups_for(LOSSES[name]), "max_grad_norm": 0.05, **BESIDE[name]}
        settings["held_out"] = groups_for(LOSSES[name], 5, seed=7)
    return train_small(output, policy=policy, loss=LOSSES.get(name, "dpo"), **settings, **more)


def sharding_accelerator():
    """Return an accelerator that shards as the launcher's environment says."""
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    accelerator = Accelerator(cpu=True)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def main(folder, dtype, names):
    torch.set_num_threads(1)
    for name in names:
        accelerator = sharding_accelerator()
        policy, summary = run(folder / name, name, dtype, accelerator=accelerator)
        state = accelerator.get_state_dict(summary.policy)
        if accelerator.is_main_process:
            torch.save(state, folder / f"{name}.pt")
            layers = [type(module).__name__ for module in policy.modules() if "FSDP" in type(module).__name__]
            (folder / f"{name}.layers").write_text("\n".join(layers))
            if name not in BESIDE:
                export_policy(policy, tiny_tokenizer(), folder / f"{name}-policy", "card", state)
        accelerator.wait_for_everyone()
        accelerator = sharding_accelerator()
        again = folder / f"{name}-resumed"
        try:
            run(again, name, dtype, accelerator=accelerator, stop=("train", 3))
        except KeyboardInterrupt:
            accelerator.wait_for_everyone()
        accelerator = sharding_accelerator()
        _, summary = run(again, name, dtype, accelerator=accelerator, resume=True)
        state = accelerator.get_state_dict(summary.policy)
        if accelerator.is_main_process:
            torch.save(state, folder / f"{name}-resumed.pt")
        accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3:])
