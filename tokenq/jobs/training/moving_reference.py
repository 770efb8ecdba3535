"""The reference of a training that moves it: every so many steps some of the policy is mixed into it (TR-DPO)."""

from dataclasses import replace

from tokenq.errors import UserError
from tokenq.jobs.training.opening import OpenRun
from tokenq.jobs.training.reference import Reference, autocast
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import MovingReference, no_grad_with
from tokenq.training.config import TrainConfig
from tokenq.training.job import PolicyFiles
from tokenq.training.optim import SHARDED


def moving_reference(run: OpenRun[TrainConfig], reference: Reference, policy: PackedLM) -> Reference:
    """Return the reference as one that moves.

    A frozen copy of the policy, or another model of the same weights, moves in place. Below a new adapter the reference
    is an adapter of its own on the same base: it begins as the new one, which changes nothing yet.

    Raises:
        UserError: the weights are in shards, are not those of the policy, or the loss reads what an adapter below
            another cannot give.
    """
    config, accelerator = run.config, run.accelerator
    if accelerator.distributed_type in SHARDED:
        raise UserError(
            "--reference-sync-steps: weights in shards (FSDP, DeepSpeed) are not mixed into a reference.",
            "Launch with data parallelism alone (DDP), or leave it out.",
        )
    own = {name: one for name, one in policy.named_parameters() if one.requires_grad}
    assert config.reference_sync_steps is not None
    assert config.reference_mixup_alpha is not None
    when = config.reference_sync_steps, config.reference_mixup_alpha
    if reference.model is not None:
        theirs = dict(reference.model.named_parameters())
        odd = next((name for name, one in own.items() if name not in theirs or theirs[name].shape != one.shape), None)
        if odd is not None:
            raise UserError(
                f"--reference-sync-steps: the policy is mixed into its reference, which has no {odd} of that shape.",
                "Leave --reference out, or name a model of the same architecture and form as --model.",
            )
        return replace(reference, moving=MovingReference(own, {name: theirs[name] for name in own}, *when))
    if "ref_kls" in run.loss.inputs:
        raise UserError(
            f"Loss {config.loss!r} reads all logits of its reference, which below an adapter cannot move.",
            "Leave --reference-sync-steps out, or train all weights.",
        )
    moving = MovingReference(own, {name: one.detach().clone() for name, one in own.items()}, *when)
    scorer = autocast(no_grad_with(policy, moving.reference), accelerator)
    return replace(reference, online=scorer, moving=moving)


def with_reference(files: PolicyFiles, moving: MovingReference) -> PolicyFiles:
    """Return the files of a policy with the reference's weights beside it in every checkpoint."""
    own = {f"reference.{name}": one for name, one in moving.reference.items()}
    return files._replace(beside=lambda exact: {**files.beside(exact), **own})
