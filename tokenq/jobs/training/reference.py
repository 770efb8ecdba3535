"""The reference of a training run: which model it is, and whether its log-probs come from the store or a forward."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from tokenq.cache import REFERENCE, cache_folder
from tokenq.core.logits import Logits
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.jobs.training.opening import OpenRun
from tokenq.listener import Event, Listener
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import MovingReference, frozen_model, logits_of, no_grad
from tokenq.models.identity import ModelIdentity, identify
from tokenq.models.load import ModelSpec, same_dtype
from tokenq.models.open import open_model
from tokenq.models.reference_store import ReferenceStore
from tokenq.models.tokenizer import check_tokenizers, check_vocabularies, open_tokenizer
from tokenq.records.examples import TokenGroup
from tokenq.records.lazy_groups import LazyGroups, count_responses
from tokenq.training.checks import together
from tokenq.training.config import TrainConfig

S = TypeVar("S", bound=Callable[..., Tensor])

START_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest mean difference (nats) of a response's log-probs between two passes of the same weights that is rounding."""


@dataclass(frozen=True)
class Reference:
    """The reference of a run.

    Attributes:
        identity: which model it is; None when there is none.
        store: its log-probs, or None when it is computed online.
        online: computes its log-probs, or None.
        tolerance: see `Job.start_tolerance`.
        model: the model of `--reference`, or a frozen copy of the policy, where one stays in memory.
        logits: gives its logits, for a loss that reads them; see `with_logits`.
        moving: its weights and when they move, where they do; see `moving_reference`.
    """

    identity: ModelIdentity | None
    store: ReferenceStore | None
    online: TokenScorer | None
    tolerance: float | None
    model: PackedLM | None = None
    logits: Callable[[PackedBatch], Logits] | None = None
    moving: MovingReference | None = None

    def with_logps(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        """Return the groups with what is stored of log π_ref as token column `ref_logps`."""
        return groups if self.store is None else self.store.with_logps(groups)


NO_REFERENCE = Reference(None, None, None, None)


def find_reference(
    run: OpenRun[TrainConfig],
    policy: PackedLM,
    identity: ModelIdentity,
    tokenizer: Any,
    stored: Sequence[Sequence[TokenGroup]] | None = None,
) -> Reference:
    """Return the reference that a run asks for.

    Args:
        run: says which.
        policy: as it starts.
        identity: the policy's.
        tokenizer: goes with the policy.
        stored: data whose log-probs are kept between runs, unless the run is not to; None where they are computed in
            every step.

    Raises:
        UserError: the reference cannot be loaded, or reads token ids otherwise than the policy's tokenizer wrote them.
    """
    config, accelerator, listener = run.config, run.accelerator, run.listener
    fresh_adapter = config.lora_rank > 0
    source: TokenScorer = no_grad(policy)
    ref_identity, same_start, other = identity, config.lora_dropout == 0, None
    if config.reference is not None:
        spec = ModelSpec(config.reference, config.dtype, str(accelerator.device))
        spec = replace(spec, trust_remote_code=config.trust_remote_code, base=config.base)
        spec = same_dtype(policy.model, spec)
        _compare_tokenizers(tokenizer, spec, listener)
        opened = open_model(spec, config.attention, config.max_length, lambda text: listener.say(f"warning: {text}"))
        ref_identity, other = opened.identity, opened.lm
        other.model.requires_grad_(False)
        check_vocabularies(policy.model, other.model)
        source = no_grad(other)
        same_start = same_start and ref_identity.weights == identity.weights
    elif fresh_adapter:
        ref_identity = identify(policy.model, config.model, adapter="off")
        source = no_grad(policy, "off")
    if config.mixed_precision != "no":
        ref_identity = replace(ref_identity, dtype=f"{ref_identity.dtype} in {config.mixed_precision}")
    tolerance = START_TOLERANCE[compute_dtype(policy, config)] if same_start else None
    if stored is None or config.reference_store == "off":
        other = other if other is not None or fresh_adapter else frozen_model(policy)
        online = source if other is None else no_grad(other)
        return Reference(ref_identity, None, autocast(online, accelerator), tolerance, other)
    folder = Path(config.reference_store).expanduser() if config.reference_store else default_store()
    store = ReferenceStore(folder, ref_identity)
    fill = partial(store.fill, scorer=autocast(source, accelerator), budget=config.tokens_per_batch)
    fill = partial(fill, device=accelerator.device, progress=lambda n, of: listener(Event("reference", n, of)))
    policy.model.eval()
    computed = 0
    for groups in _stretches(stored):
        own = groups[accelerator.process_index :: accelerator.num_processes]
        computed += together(partial(fill, own), accelerator)
        accelerator.wait_for_everyone()
        store.refresh()
        computed += together(partial(fill, groups), accelerator)
    total = sum(map(count_responses, stored))
    listener.say(f"reference: {total} responses, {computed} computed, {total - computed} from {store.folder}")
    return Reference(ref_identity, store, None, tolerance, other)


def _stretches(data: Sequence[Sequence[TokenGroup]]) -> Iterator[Sequence[TokenGroup]]:
    """Yield all groups; of those that are built when they are asked for, some thousands at a time."""
    yield [group for part in data if not isinstance(part, LazyGroups) for group in part]
    for part in data:
        for start in range(0, len(part), _STRETCH) if isinstance(part, LazyGroups) else ():
            yield part[start : start + _STRETCH]


_STRETCH = 2**15


def with_logits(run: OpenRun[TrainConfig], reference: Reference, policy: PackedLM) -> Reference:
    """Return the reference with its logits in every step: the adapter off, the model named, or a frozen copy.

    Log-probs can be stored, whole distributions over the vocabulary cannot.
    """
    model = reference.model
    if model is None and not run.config.lora_rank:
        model = frozen_model(policy)
        run.listener.say("reference: a frozen copy of the policy stays in memory, as the loss reads all of its logits")
    read = logits_of(policy, "off") if model is None else logits_of(model)

    def logits(batch: PackedBatch) -> Logits:
        with run.accelerator.autocast():
            return read(batch)

    return replace(reference, logits=logits)


def _compare_tokenizers(tokenizer: Any, reference: ModelSpec, listener: Listener) -> None:
    try:
        theirs = open_tokenizer(reference)
    except UserError:
        listener.say(f"warning: {reference.path} has no tokenizer; its token ids are taken to be those of the policy")
        return
    check_tokenizers(tokenizer, theirs)


def default_store() -> Path | None:
    """Return the folder of reference log-probs that all runs of a user share, None where nothing is kept."""
    folder = cache_folder()
    return None if folder is None else folder / REFERENCE


def autocast(scorer: S, accelerator: Accelerator) -> S:
    """Return the scorer computing in the precision of the training forward."""

    def score(batch: Any) -> Tensor:
        with accelerator.autocast():
            return scorer(batch)

    return cast(S, score)


def compute_dtype(policy: PackedLM, config: TrainConfig) -> torch.dtype:
    """Return the type in which a run computes."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return mixed.get(config.mixed_precision) or next(p.dtype for p in policy.parameters() if p.is_floating_point())
