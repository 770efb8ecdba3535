"""`tokenq train`: joins data, models and the loop, and says what happens. No arithmetic here."""

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn

import tokenq
from tokenq.cli.progress import Progress
from tokenq.core.losses import Loss, find_loss
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.data.examples import read_examples
from tokenq.data.sources import load_examples
from tokenq.data.tokenize import TokenizedData, group_key, tokenize
from tokenq.errors import UserError
from tokenq.models.export import export_policy, model_card
from tokenq.models.forward import PackedLM, bare, fastest_exact
from tokenq.models.load import (
    ModelIdentity,
    ModelSpec,
    add_lora,
    check_vocabularies,
    identify,
    load_model,
    load_tokenizer,
)
from tokenq.models.policy import adapter_off, frozen_copy, no_grad
from tokenq.models.reference_store import ReferenceStore
from tokenq.records import TokenGroup
from tokenq.rundir import RunDir, create_run, provenance, record_start, resume_run, write_config
from tokenq.train.config import TrainConfig, check_resume
from tokenq.train.loop import Job, Scored, Summary, fit, total_steps
from tokenq.train.monitor import Event, Listener
from tokenq.train.objective import Objective

START_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference (nats) of one log-prob between two passes of the same weights over differently packed rows."""


def run(config: TrainConfig) -> Summary:
    """Train what `config` says and return how it ended.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    loss = find_loss(config.loss, _loss_parameters(config))
    accelerator = _accelerator(config)
    with _quiet_libraries(), Progress(config.logging_steps, enabled=accelerator.is_main_process) as progress:
        set_seed(config.seed)
        spec = ModelSpec(config.model, config.dtype, str(accelerator.device), config.adapter, config.revision)
        spec = replace(spec, trust_remote_code=config.trust_remote_code)
        tokenizer = load_tokenizer(spec, _read(config.chat_template))
        data, held_out = _load_data(config, loss, tokenizer, progress)
        model = _with_lora(load_model(spec, trainable_adapter=config.adapter is not None), config)
        policy = _exact(model, config, progress)
        run_dir = _open_run(config, accelerator)
        identity = identify(model, config.model)
        reference = _NO_REFERENCE
        if loss.reference:
            reference = _reference(policy, identity, config, accelerator, [data.groups, held_out.groups], progress)
        if accelerator.is_main_process:
            _record(run_dir, config, identity, reference.identity, data, held_out, accelerator)
        _make_ready(policy, config, accelerator)
        parameters = find_loss(config.loss).parameters() | _loss_parameters(config)
        job = Job(
            policy=policy,
            data=Scored(data.groups, reference.scorer(data.groups)),
            objective=Objective(loss, parameters.get("beta", 1.0)),
            config=config,
            run=run_dir,
            evaluation=Scored(held_out.groups, reference.scorer(held_out.groups)),
            start_tolerance=reference.tolerance,
            work=policy.work,
            listener=progress,
        )
        steps = total_steps(config, len(data.groups))
        progress.say(f"training: {steps} steps of {config.batch_size} {loss.unit}, {policy.way} attention")
        summary = fit(job, accelerator)
        _finish(policy, tokenizer, config, summary, run_dir, accelerator)
        progress.say(f"done: the policy is in {run_dir.policy}, every step's numbers in {run_dir.metrics}")
    return summary


@dataclass(frozen=True)
class _Reference:
    """The reference of a run.

    Attributes:
        identity: which model it is; None when there is none.
        store: its log-probs, or None when it is computed online.
        online: computes its log-probs, or None.
        tolerance: see `Job.start_tolerance`.
    """

    identity: ModelIdentity | None
    store: ReferenceStore | None
    online: TokenScorer | None
    tolerance: float | None

    def scorer(self, groups: Sequence[TokenGroup]) -> TokenScorer | None:
        """Return what gives log π_ref of batches packed from `groups`."""
        return self.store.scorer(groups) if self.store is not None else self.online


_NO_REFERENCE = _Reference(None, None, None, None)


def _reference(
    policy: PackedLM,
    identity: ModelIdentity,
    config: TrainConfig,
    accelerator: Accelerator,
    data: Sequence[Sequence[TokenGroup]],
    progress: Progress,
) -> _Reference:
    """Return the reference that the configuration asks for, with its log-probs of all data where they are stored."""
    fresh_adapter = config.lora_rank > 0
    source: TokenScorer = no_grad(policy)
    ref_identity, same_start = identity, config.lora_dropout == 0
    if config.reference is not None:
        spec = ModelSpec(config.reference, config.dtype, str(accelerator.device))
        model = load_model(replace(spec, trust_remote_code=config.trust_remote_code)).requires_grad_(False)
        check_vocabularies(policy.model, model)
        ref_identity = identify(model, config.reference)
        source = no_grad(_exact(model, config, progress))
        same_start = same_start and ref_identity.weights == identity.weights
    elif fresh_adapter:
        ref_identity = identify(policy.model, config.model, adapter="off")
        source = adapter_off(policy)
    ref_identity = replace(ref_identity, dtype=f"{ref_identity.dtype} {config.mixed_precision}")
    tolerance = START_TOLERANCE[_compute_dtype(policy, config)] if same_start else None
    if config.reference_store == "off":
        online = source if config.reference is not None or fresh_adapter else frozen_copy(policy)
        return _Reference(ref_identity, None, _autocast(online, accelerator), tolerance)
    folder = Path(config.reference_store).expanduser() if config.reference_store else default_store()
    store = ReferenceStore(folder, ref_identity)
    groups = [group for part in data for group in part]
    fill = partial(store.fill, scorer=_autocast(source, accelerator), budget=config.tokens_per_batch)
    fill = partial(fill, device=accelerator.device, progress=lambda n, of: progress(Event("reference", n, of)))
    policy.model.eval()
    computed = fill(groups[accelerator.process_index :: accelerator.num_processes])
    accelerator.wait_for_everyone()
    store.refresh()
    computed += fill(groups)
    total = sum(len(group.responses) for group in groups)
    progress.say(f"reference: {total} responses, {computed} computed, {total - computed} from {store.folder}")
    return _Reference(ref_identity, store, None, tolerance)


def default_store() -> Path:
    """Return the folder of reference log-probs that all runs of a user share."""
    cache = os.environ.get("TOKENQ_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "tokenq")
    return Path(cache).expanduser() / "reference"


def _load_data(
    config: TrainConfig, loss: Loss, tokenizer: Any, progress: Progress
) -> tuple[TokenizedData, TokenizedData]:
    """Return training and held-out data in token space."""
    read = partial(read_examples, want=loss.unit, columns=config.columns, bad_rows=config.bad_rows)
    found = load_examples(config.data, read, seed=config.seed)
    kept, held_out = found.examples, found.examples[:0]
    if config.eval_data:
        held_out = load_examples(config.eval_data, read, seed=config.seed).examples
    elif config.eval_size:
        if config.eval_size >= len(kept):
            raise UserError(f"--eval-size {config.eval_size} leaves nothing of {len(kept)} rows.", "Make it smaller.")
        kept, held_out = kept[: -config.eval_size], kept[-config.eval_size :]
    encode = partial(
        tokenize,
        tokenizer=tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        truncation=config.truncation,
    )
    data = encode(kept, rows=found.rows - len(held_out), dropped=found.dropped)
    progress.say(f"data: {data.summary.line()}")
    if not held_out:
        return data, TokenizedData([], data.summary)
    evaluation = encode(held_out)
    progress.say(f"held out: {evaluation.summary.line()}")
    return data, evaluation


def _exact(model: nn.Module, config: TrainConfig, progress: Progress) -> PackedLM:
    policy, said = fastest_exact(model, config.attention, config.max_length)
    for warning in said:
        progress.say(f"warning: {warning}")
    return policy


def _with_lora(model: nn.Module, config: TrainConfig) -> nn.Module:
    if not config.lora_rank:
        return model
    alpha = 2.0 * config.lora_rank if config.lora_alpha is None else config.lora_alpha
    targets = list(config.lora_targets) or "all-linear"
    return add_lora(model, rank=config.lora_rank, alpha=alpha, dropout=config.lora_dropout, targets=targets)


def _make_ready(policy: PackedLM, config: TrainConfig, accelerator: Accelerator) -> None:
    """Choose how gradients are computed."""
    if config.gradient_checkpointing:
        bare(policy.model).gradient_checkpointing_enable({"use_reentrant": False})
    if accelerator.distributed_type == DistributedType.NO and config.mixed_precision == "no":
        policy.accumulate_in_place()


def _accelerator(config: TrainConfig) -> Accelerator:
    try:
        accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.mixed_precision,
            log_with=list(config.report_to) or None,
            project_dir=config.output,
        )
    except (ValueError, ImportError) as problem:
        name = next(iter(config.report_to), "")
        raise UserError(
            f"This machine cannot do what was asked: {str(problem).splitlines()[0]}",
            f"A missing tracker is installed with: pip install 'tokenq[{name}]'"
            if name
            else "Check --mixed-precision.",
        ) from None
    if config.report_to:
        accelerator.init_trackers(config.run_name or Path(config.output).name, config=_flat(asdict(config)))
    return accelerator


def _open_run(config: TrainConfig, accelerator: Accelerator) -> RunDir:
    """Return the run directory; refuse one that holds another run."""
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return RunDir(Path(config.output))
    run_dir = resume_run(config.output) if config.resume else create_run(config.output)
    if config.resume and run_dir.config.exists():
        check_resume(config, yaml.safe_load(run_dir.config.read_text(encoding="utf-8")))
    write_config(run_dir, asdict(replace(config, resume=False)))
    accelerator.wait_for_everyone()
    return run_dir


def _record(
    run_dir: RunDir,
    config: TrainConfig,
    identity: ModelIdentity,
    reference: ModelIdentity | None,
    data: TokenizedData,
    held_out: TokenizedData,
    accelerator: Accelerator,
) -> None:
    """Write down where the run comes from."""
    identities = {
        "model": identity.to_dict(),
        "reference": None if reference is None else reference.to_dict(),
        "data": _data_identity(config.data, data),
        "eval_data": _data_identity(config.eval_data, held_out) if held_out.groups else None,
        "device": f"{accelerator.device} x {accelerator.num_processes}",
    }
    record_start(run_dir, provenance(asdict(config), config.seed, identities))


def _data_identity(sources: Sequence[str], data: TokenizedData) -> dict[str, Any]:
    digest = hashlib.sha256("".join(group_key(group) for group in data.groups).encode())
    return {"sources": list(sources), "sha256": digest.hexdigest(), "summary": data.summary.to_dict()}


def _finish(
    policy: PackedLM,
    tokenizer: Any,
    config: TrainConfig,
    summary: Summary,
    run_dir: RunDir,
    accelerator: Accelerator,
) -> None:
    """Write the policy."""
    state: Mapping[str, Tensor] | None = None
    if accelerator.num_processes > 1:
        state = accelerator.get_state_dict(summary.policy)
    if accelerator.is_main_process:
        facts = {
            "data": ", ".join(config.data),
            "steps": summary.steps,
            "batch size": config.batch_size,
            "learning rate": config.learning_rate,
            **_loss_parameters(config),
            **{name: f"{value:.4g}" for name, value in summary.after.items()},
        }
        card = model_card(policy, run_dir.path.name, config.model, config.loss, facts, tokenq.__version__)
        export_policy(policy, tokenizer, run_dir.policy, card, state)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _autocast(scorer: TokenScorer, accelerator: Accelerator) -> TokenScorer:
    """Return the scorer computing in the precision of the training forward."""

    def score(batch: PackedBatch) -> Tensor:
        with accelerator.autocast():
            return scorer(batch)

    return score


def _compute_dtype(policy: PackedLM, config: TrainConfig) -> torch.dtype:
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return mixed.get(config.mixed_precision) or next(p.dtype for p in policy.parameters() if p.is_floating_point())


def _loss_parameters(config: TrainConfig) -> dict[str, float]:
    """Return the parameters of the loss that were given."""
    given = {"beta": config.beta, "label_smoothing": config.label_smoothing}
    return {name: value for name, value in given.items() if value is not None}


def _read(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"The chat template {path} cannot be read: {problem}", "Give a Jinja file.") from None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as trackers take it: no lists, no None."""
    return {key: value if isinstance(value, int | float | bool) else str(value) for key, value in config.items()}


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence what libraries say about matters that this run handles itself."""
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Removed shared tensor.*")
        yield


__all__ = ["Listener", "default_store", "run"]
