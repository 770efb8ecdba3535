"""`tokenq train`: joins data, models and the loop, and says what happens. No arithmetic here."""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor

import tokenq
from tokenq.cli.merging import merges, refuse_merge_in_shards
from tokenq.cli.progress import Progress
from tokenq.cli.recipes import find
from tokenq.cli.reference import NO_REFERENCE, find_reference, proven_policy, with_logits
from tokenq.cli.reward_training import Ready, prepare_reward_model
from tokenq.core.losses import LossSum, find_sum
from tokenq.core.losses.inputs import INPUTS
from tokenq.data.beside import reward_scale, with_contrast, with_mismatched, with_rewards, with_steps
from tokenq.data.differences import refuse_equal
from tokenq.data.examples import read_examples
from tokenq.data.sources import hold_out, load_examples
from tokenq.data.tokenize import TokenizedData, group_key, tokenize
from tokenq.errors import UserError
from tokenq.models.classifier import RewardLM
from tokenq.models.export import Form, export_policy, model_card
from tokenq.models.forward import PackedLM, bare
from tokenq.models.identity import ModelIdentity, identify
from tokenq.models.load import ModelSpec, add_lora, hide_progress_bars, load_model, load_tokenizer
from tokenq.models.value_network import ValuedPolicy
from tokenq.rundir import RunDir, create_run, provenance, record_start, refuse_used, resume_run, write_config
from tokenq.train.config import TrainConfig, check_resume
from tokenq.train.loop import Job, Scored, Summary, fit, total_steps
from tokenq.train.objective import Objective


def run(config: TrainConfig) -> Summary:
    """Train what `config` says and return how it ended.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    loss = find_sum(config.loss, _loss_parameters(config))
    _check_inputs(config, loss)
    refuse_merge_in_shards(config, loss)
    if not config.resume:
        refuse_used(config.output)
    accelerator = _accelerator(config)
    with _quiet_libraries(), Progress(config.logging_steps, enabled=accelerator.is_main_process) as progress:
        set_seed(config.seed)
        spec = ModelSpec(config.model, config.dtype, str(accelerator.device), config.adapter, config.revision)
        spec = replace(spec, trust_remote_code=config.trust_remote_code)
        tokenizer = load_tokenizer(spec, _read(config.chat_template))
        rows, held_out_rows = _load_data(config, loss, tokenizer, progress)
        make = PREPARATIONS[loss.output]
        ready = make(config, loss, spec, tokenizer, (rows, held_out_rows), progress)
        policy, data, held_out = ready.policy, ready.data, ready.held_out
        refuse_equal(data.groups, loss.inputs)
        run_dir = _open_run(config, accelerator)
        identity = identify(policy.model, config.model)
        reference = NO_REFERENCE
        if isinstance(policy, PackedLM) and loss.reference:
            groups = [data.groups, held_out.groups]
            reference = find_reference(policy, identity, config, accelerator, groups, tokenizer, progress)
        if isinstance(policy, PackedLM) and "ref_kls" in loss.inputs:
            reference = with_logits(reference, policy, config, accelerator, progress)
        if accelerator.is_main_process:
            _record(run_dir, config, identity, reference.identity, rows, held_out_rows, loss, accelerator)
        valued = ValuedPolicy(policy) if isinstance(policy, PackedLM) and loss.valued else None
        _make_ready(policy, valued, config, accelerator)
        job = Job(
            policy=valued or policy,
            data=Scored(data.groups, reference.scorer(data.groups), reference.logits),
            objective=ready.objective,
            config=config,
            run=run_dir,
            evaluation=Scored(held_out.groups, reference.scorer(held_out.groups), reference.logits),
            start_tolerance=reference.tolerance,
            values=None if valued is None else valued.values,
            work=policy.work,
            listener=progress,
        )
        steps = total_steps(config, len(data.groups))
        unit = loss.unit if loss.unit in ("pairs", "responses") else "prompts"
        progress.say(f"training: {steps} steps of {config.batch_size} {unit}, {policy.way} attention")
        summary = fit(job, accelerator)
        _finish(policy, tokenizer, config, loss, summary, run_dir, accelerator)
        what = "policy" if isinstance(policy, PackedLM) else "reward model"
        progress.say(f"done: the {what} is in {_result(policy, run_dir)}, every step's numbers in {run_dir.metrics}")
    return summary


def _prepare_policy(
    config: TrainConfig,
    loss: LossSum,
    spec: ModelSpec,
    tokenizer: Any,
    parts: tuple[TokenizedData, TokenizedData],
    progress: Progress,
) -> Ready:
    data, held_out = (_with_inputs(part, config, loss, parts[0]) for part in parts)
    model = load_model(spec, trainable_adapter=config.adapter is not None)
    model = add_lora(model, **config.lora()) if config.lora_rank else model
    return Ready(proven_policy(model, config, progress), data, held_out, Objective(loss, loss.beta))


PREPARATIONS = {"logps": _prepare_policy, "rewards": prepare_reward_model}
"""What is made ready for each output of a loss."""


def _result(policy: PackedLM | RewardLM, run_dir: RunDir) -> Path:
    return run_dir.policy if isinstance(policy, PackedLM) else run_dir.reward_model


def _load_data(
    config: TrainConfig, loss: LossSum, tokenizer: Any, progress: Progress
) -> tuple[TokenizedData, TokenizedData]:
    """Return training and held-out data in token space."""
    read = partial(read_examples, want=loss.want, pairing=config.pairing, style=config.style)
    read = partial(read, columns=config.columns, bad_rows=config.bad_rows)
    found = load_examples(config.data, read, seed=config.seed)
    kept, held_out = found.examples, found.examples[:0]
    if config.eval_data:
        held_out = load_examples(config.eval_data, read, seed=config.seed).examples
    elif config.eval_size:
        kept, held_out = hold_out(kept, config.eval_size, seed=config.seed)
    encode = partial(
        tokenize,
        tokenizer=tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        truncation=config.truncation,
        with_texts=bool({"steps", "contrast", "step_labels"} & loss.inputs.keys()),
    )
    data = encode(kept, rows=found.rows, dropped=found.dropped)
    progress.say(f"data: {data.summary.line()}")
    if not held_out:
        return data, TokenizedData([], data.summary)
    evaluation = encode(held_out)
    progress.say(f"held out: {evaluation.summary.line()}")
    return data, evaluation


def _check_inputs(config: TrainConfig, loss: LossSum) -> None:
    """Refuse a loss without what it reads from elsewhere, and what no loss reads."""
    if "contrast" in loss.inputs and config.contrast is None:
        raise UserError(f"Loss {config.loss!r} needs token weights, and there are none.", INPUTS["contrast"].hint)
    if config.contrast is not None and "contrast" not in loss.inputs:
        raise UserError(f"--contrast is given, and loss {config.loss!r} does not read it.", "Take --loss tis_dpo.")
    if config.reference is not None and not loss.reference:
        says = "A reward model has" if loss.output == "rewards" else f"Loss {config.loss!r} has"
        raise UserError(f"--reference is given. {says} no reference.", "Leave it out, or take a loss with one (dpo).")
    if config.attributes and "ratings" not in loss.inputs:
        raise UserError(f"--attributes is given, and loss {config.loss!r} reads none.", "Take --loss regression.")


def _with_inputs(data: TokenizedData, config: TrainConfig, loss: LossSum, trained: TokenizedData) -> TokenizedData:
    """Return the data with what the loss reads beside it; rewards on the scale of the data that is trained on."""
    if not data.groups:
        return data
    groups = data.groups
    if "steps" in loss.inputs:
        groups = with_steps(data)
    if config.contrast is not None:
        groups = with_contrast(replace(data, groups=groups), Path(config.contrast))
    if "rewards" in loss.inputs:
        groups = with_rewards(groups, reward_scale(trained.groups))
    if loss.inputs.get("mismatched") == "data":
        groups = with_mismatched(groups, config.max_length)
    return replace(data, groups=groups)


def _make_ready(
    policy: PackedLM | RewardLM, valued: ValuedPolicy | None, config: TrainConfig, accelerator: Accelerator
) -> None:
    """Choose how gradients are computed."""
    if config.gradient_checkpointing:
        bare(policy.model).gradient_checkpointing_enable({"use_reentrant": False})
        if valued is not None:
            valued.values.body.gradient_checkpointing_enable({"use_reentrant": False})
    alone = accelerator.distributed_type == DistributedType.NO and config.mixed_precision == "no"
    if alone and isinstance(policy, PackedLM):
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
    loss: LossSum,
    accelerator: Accelerator,
) -> None:
    """Write down where the run comes from."""
    identities = {
        "model": identity.to_dict(),
        "reference": None if reference is None else reference.to_dict(),
        "data": _data_identity(config.data, data),
        "eval_data": _data_identity(config.eval_data, held_out) if held_out.groups else None,
        "beta": loss.beta if loss.reference else None,
        "rewards": reward_scale(data.groups)._asdict() if "rewards" in loss.inputs else None,
        "device": f"{accelerator.device} x {accelerator.num_processes}",
    }
    record_start(run_dir, provenance(asdict(config), config.seed, identities))


def _data_identity(sources: Sequence[str], data: TokenizedData) -> dict[str, Any]:
    digest = hashlib.sha256("".join(group_key(group) for group in data.groups).encode())
    return {"sources": list(sources), "sha256": digest.hexdigest(), "summary": data.summary.to_dict()}


def _finish(
    policy: PackedLM | RewardLM,
    tokenizer: Any,
    config: TrainConfig,
    loss: LossSum,
    summary: Summary,
    run_dir: RunDir,
    accelerator: Accelerator,
) -> None:
    """Write the policy, or the reward model."""
    state: Mapping[str, Tensor] | None = None
    if accelerator.num_processes > 1:
        gathered = accelerator.get_state_dict(summary.policy)
        own = (name for name in gathered if not name.startswith("values."))
        state = {name.removeprefix("policy."): gathered[name] for name in own}
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
        form: Form = "merged" if merges(config, loss) else "as_trained"
        export_policy(policy, tokenizer, _result(policy, run_dir), card, state, form)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _loss_parameters(config: TrainConfig) -> dict[str, float | str]:
    """Return the parameters of the loss that were given."""
    if config.beta is not None and "beta" in config.loss_options:
        raise UserError("beta is given twice: --beta and --loss-options beta.", "Give one of them.")
    return {**({} if config.beta is None else {"beta": config.beta}), **config.loss_options}


def _read(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return find(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"The chat template {path} cannot be read: {problem}", "Give a Jinja file.") from None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as trackers take it: no lists, no None."""
    return {key: value if isinstance(value, int | float | bool) else str(value) for key, value in config.items()}


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence what libraries say about matters that this run handles itself."""
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    hide_progress_bars()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Removed shared tensor.*")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
