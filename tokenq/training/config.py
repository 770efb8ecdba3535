"""The settings of a run: one frozen dataclass, the same from the command line, a YAML file and Python.

The string under each field is its help text. This module checks values against each other and refuses to touch files,
models or torch, so that `tokenq --help` is instant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokenq.errors import UserError, unknown_name
from tokenq.options import ControlOptions, PairingOptions, PictureOptions, SegmentOptions, WeightOptions
from tokenq.ranges import Range, check_ranges
from tokenq.training.trl import SPELT_ELSEWHERE as SPELT_ELSEWHERE


@dataclass(frozen=True)
class TrainConfig(ControlOptions, PictureOptions, SegmentOptions, WeightOptions, PairingOptions):
    """Train a policy on demonstrations, pairs, labels, rewards or rankings, or a reward model: --loss says which."""

    model: str
    """Model to start from: a folder, a hub id, or a .gguf file; for images the folder of a diffusers pipeline."""
    data: Sequence[str]
    """Training data: files (.jsonl, .json, .csv, .parquet, …, also packed), patterns in quotes, folders or hub ids."""
    output: str
    """Folder of the run; must not hold another run unless --resume is given."""

    reference: str | None = None
    """Reference model. Default: the policy before the first step (as a frozen copy, or with its adapter off)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run Python code that a model brings along. Only for models whose authors you trust."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: float32 for what is trained, the checkpoint's for what is frozen below an adapter.
    bfloat16 keeps a float32 master copy in the optimiser."""
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto"
    """How batches go through the model; auto takes the fastest way that proves equal to the model's own forward."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""

    lora_rank: int = 0
    """Rank of a new LoRA adapter; 0 trains all weights."""
    lora_alpha: float | None = None
    """Scale of the adapter. Default: twice the rank."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input."""
    lora_targets: Sequence[str] = ()
    """Names of the layers that get an adapter. Default: every linear layer except the head."""
    adapter: str | None = None
    """Folder of an adapter to train further, instead of a new one."""
    base: str | None = None
    """Base of a --model or --reference that is an adapter, instead of the one that the adapter names."""

    streaming: bool = False
    """Read --data row by row as they are needed, and never hold them whole; their number need not be known, but
    --max-steps must be given."""
    shuffle_buffer: int | None = None
    """Examples of a stream that are shuffled together; 0 leaves the order as it is. Default: 1000."""
    dataset_num_proc: int = 1
    """Processes that tokenise data which are not held in memory (more than 16 MB)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns chosen=good rejected=bad (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used (empty, chosen = rejected): stop, or leave it out and count it."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text as it is, or make chat turns of it."""
    chat_template: str | None = None
    """File with a Jinja chat template, instead of the tokenizer's."""
    max_length: int = 1024
    """Maximum number of tokens in prompt plus response."""
    max_prompt_length: int | None = None
    """Maximum number of tokens in the prompt. Default: whatever max_length leaves."""
    truncation: Literal["drop", "error", "prompt_left", "response_right", "both"] = "drop"
    """What to do with longer rows: leave out and count, stop, cut the prompt's start, the responses' end, or both."""
    eval_data: Sequence[str] = ()
    """Data to evaluate on, in the same forms as --data."""
    eval_size: float = 0
    """Rows to hold out of the training data for evaluation, when there is no --eval-data; below 1 a share of prompts
    (0.01), chosen by their hashes. A stream takes a share: it is evaluated on those of its first 10,000 rows."""

    loss: str = "dpo"
    """Loss, or a weighted sum such as dpo+0.2*sft. Demonstrations: sft. Pairs: dpo, sigmoid_norm, cdpo, robust, ipo
    (per token, as TRL), ipo_sum (as in the paper), hinge, exo, discopop, dpop, cal_dpo, nca, sppo, apo_zero,
    apo_down, bco_pair, d3po, r_dpo, ld_dpo, fdpo_forward_kl, fdpo_js, fdpo_alpha, simpo, orpo, cpo, aot, aot_unpaired,
    tdpo1, tdpo2, step_dpo, dmpo, wpo, vpo_offline, vpo_online, selm, xpo. Labelled responses: kto,
    bco, ce. Responses with a reward: dro. Responses with advantages: reinforce, rloo, grpo, dr_grpo, ppo, dapo, gspo,
    cispo, with terms kl_k1, kl_k2, kl_k3, value, clipped_value, implicit_prm. Responses with target weights: steerlm.
    Rankings: plackett_luce. Reward models: bradley_terry, margin_bradley_terry, scaled_bradley_terry (pairs),
    regression (ratings), process (steps)."""
    attributes: Sequence[str] = ()
    """Ratings that --loss regression learns, in the order of the reward model's outputs. Default: all there are."""
    beta: float | None = None
    """Temperature of the KL penalty. Default: the loss's own (0.1 for dpo)."""
    loss_options: Mapping[str, str] = field(default_factory=dict)
    """Other parameters of the loss: --loss-options gamma=0.5; docs/methods.md lists them. In a sum, one loss's is
    name.parameter."""
    reference_store: str | None = None
    """Folder that keeps reference log-probs between runs; off: do not keep them. Default: the user's cache folder."""
    reference_sync_steps: int | None = None
    """Move the reference every so many steps: reference ← α · policy + (1 − α) · reference (TR-DPO). Default: never."""
    reference_mixup_alpha: float | None = None
    """α of --reference-sync-steps. Default: 0.6; 1 (the policy itself) with an adapter."""

    batch_size: int = 8
    """Examples per optimiser step, over all processes: pairs, rankings, or single responses (sft, kto, bco, ce, dro,
    regression, process), which count one by one where they share a prompt."""
    tokens_per_batch: int = 4096
    """Maximum number of tokens in one forward pass on one process. Affects only memory and speed."""
    learning_rate: float | None = None
    """Peak learning rate. Default, for all weights and for an adapter: sft 1e-5 and 2e-4, preferences 1e-6 and 5e-5,
    reward models 1e-5 and 1e-4."""
    value_learning_rate: float | None = None
    """Peak learning rate of a value network beside the policy. Default: that of the policy."""
    prm_learning_rate: float | None = None
    """Peak learning rate of a process reward model beside the policy. Default: that of the policy."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int | None = None
    """Optimiser steps, instead of --epochs."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises from 0."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps; give one of the two."""
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    """Optimiser."""
    adam_beta1: float = 0.9
    """AdamW: decay of the first moment."""
    adam_beta2: float = 0.999
    """AdamW: decay of the second moment."""
    adam_epsilon: float = 1e-8
    """AdamW: added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled weight decay, not on biases and norms."""
    max_grad_norm: float = 1.0
    """Clip the gradient to this norm; 0 does not clip."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Compute in this type, keep the weights in theirs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    seed: int = 0
    """Seed of the order of the data, of dropout and of new adapter weights."""

    eval_steps: int | None = None
    """Evaluate every so many steps. Default: before the first and after the last step only."""
    save_steps: int | None = None
    """Write a checkpoint every so many steps. Default: at the end of each epoch; of a stream, every 500 steps."""
    keep_checkpoints: int = 1
    """Checkpoints to keep; older ones are deleted once a newer one is complete. 0 writes none."""
    keep_best: str | None = None
    """Keep the checkpoint that is best by a held-out metric of metrics.jsonl too (eval_loss,
    eval_rewards/accuracies, ...), which is written whenever an evaluation finds a better one."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations in a row that do not improve on the best by --keep-best."""
    save_only_model: bool = False
    """Write checkpoints without the optimiser's state: a third of the size, and nothing to resume from."""
    resume: bool = False
    """Continue the run in --output from its last checkpoint (or start it, if there is none)."""
    logging_steps: int = 10
    """Steps between lines on the console; metrics.jsonl gets every step."""
    report_to: Sequence[str] = ()
    """Trackers: tensorboard, wandb, trackio, or any other that accelerate knows."""
    run_name: str | None = None
    """Name of the run in trackers. Default: the last part of --output."""

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Names of losses, files and models are checked where they are used.

        Raises:
            UserError: names the field, and what it takes.
        """
        self.check_types()
        if not self.data:
            raise UserError("There is no training data.", "Name a file, a folder or a hub id with --data.")
        check_ranges(self, RANGES)
        for error in self.contradictions():
            raise error

    def check_types(self) -> None:
        """Refuse a choice that there is not, and a string where a list is meant.

        Raises:
            UserError: names the field, and what it takes.
        """
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise unknown_name(name.replace("_", " "), str(value), get_args(kind))
            if get_origin(kind) is Sequence and (isinstance(value, str) or not isinstance(value, Sequence)):
                one = f"{name} is one string" if isinstance(value, str) else f"--{name.replace('_', '-')} is {value!r}"
                raise UserError(f"{one}.", f"Give a list: {name}=[{value!r}].")

    def lora(self) -> dict[str, Any]:
        """Return the settings of the new adapter, as `add_lora` takes them."""
        return {
            "rank": self.lora_rank,
            "alpha": 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,
            "dropout": self.lora_dropout,
            "targets": list(self.lora_targets) or "all-linear",
        }

    def contradictions(self) -> list[UserError]:
        """Return an error for each pair of fields that exclude each other."""
        found = []
        if self.warmup_steps is not None and self.warmup_ratio > 0:
            found.append(UserError("--warmup-steps and --warmup-ratio are both given.", "Give one of them."))
        if self.schedule == "constant" and (self.warmup_steps or self.warmup_ratio > 0):
            found.append(UserError("The schedule constant has no warm-up.", "Use --schedule constant_with_warmup."))
        if self.eval_data and self.eval_size:
            found.append(UserError("--eval-data and --eval-size are both given.", "Give one of them."))
        found += [*self._about_streams(), *self._about_moves(), *self.segment_faults(), *self.weight_faults()]
        if self.adapter is not None and self.lora_rank:
            hint = "Drop --lora-rank: an adapter that is trained further keeps its rank."
            found.append(UserError("--adapter and --lora-rank are both given.", hint))
        if self.adapter is None and not self.lora_rank and (self.lora_targets or self.lora_alpha or self.lora_dropout):
            found.append(UserError("LoRA options are given, but no adapter is asked for.", "Add --lora-rank 16."))
        if len(set(self.attributes)) < len(self.attributes):
            found.append(UserError("--attributes names one twice.", "Each is one output of the reward model."))
        if self.max_prompt_length is not None and self.max_prompt_length >= self.max_length:
            message = f"--max-prompt-length {self.max_prompt_length} leaves no room for a response."
            found.append(UserError(message, f"It must be below --max-length ({self.max_length})."))
        found += self._no_best()
        if self.dtype == "float16" and not (self.lora_rank or self.adapter):
            hint = "Use --dtype float32 with --mixed-precision fp16."
            found.append(UserError("Weights in float16 cannot be trained: their gradients vanish below 6e-8.", hint))
        elif self.dtype == "float16" and self.mixed_precision != "fp16":
            hint = "Add --mixed-precision fp16, or use --dtype bfloat16 or float32."
            found.append(UserError("Gradients that pass through float16 weights vanish below 6e-8, unscaled.", hint))
        if self.dtype == "bfloat16" and self.mixed_precision == "fp16":
            hint = "Use --mixed-precision bf16, or --dtype float32."
            found.append(UserError("Weights in bfloat16 cannot be computed with in float16.", hint))
        return found

    def _about_moves(self) -> list[UserError]:
        """Return an error for each field that does not go with a reference that moves, or with one that does not."""
        if self.reference_sync_steps is None:
            alone = self.reference_mixup_alpha is not None
            hint = "Add --reference-sync-steps 512."
            return (
                [UserError("--reference-mixup-alpha is given, and the reference never moves.", hint)] if alone else []
            )
        found = []
        if self.reference_store not in (None, "off"):
            hint = "Leave it out: a reference that moves is computed in every step."
            found.append(UserError("--reference-store keeps log-probs of one reference, and this one moves.", hint))
        if (self.lora_rank or self.adapter) and self.reference_mixup_alpha not in (None, 1.0):
            hint = (
                "Give --reference-mixup-alpha 1, or train all weights: means of two factors are no factors of the mean."
            )
            found.append(
                UserError("The reference below an adapter moves to the policy, and not part of the way.", hint)
            )
        return found

    def _no_best(self) -> list[UserError]:
        """Return an error for each reason why no checkpoint can be best."""
        if self.keep_best is None:
            alone = self.early_stopping_patience is not None
            hint = "Add --keep-best eval_loss, or another held-out metric."
            return [UserError("--early-stopping-patience needs a metric that is to improve.", hint)] if alone else []
        found = []
        if not self.eval_data and not self.eval_size:
            found.append(UserError("--keep-best needs held-out data.", "Give --eval-data, or --eval-size."))
        if self.eval_steps is None:
            found.append(UserError("--keep-best needs evaluations within the run.", "Give --eval-steps."))
        if not self.keep_checkpoints:
            found.append(UserError("--keep-best keeps a checkpoint, and --keep-checkpoints 0 writes none.", ""))
        return found

    def _about_streams(self) -> list[UserError]:
        """Return an error for each field that does not go with the number of rows being known, or not."""
        found = []
        if self.shuffle_buffer is not None and not self.streaming:
            hint = "Add --streaming, or leave it out: data that are not a stream are shuffled whole."
            found.append(UserError("--shuffle-buffer is given, and the data are not a stream.", hint))
        if self.eval_size > 1 and self.eval_size != int(self.eval_size):
            hint = "Give a whole number of rows, or a share below 1."
            found.append(UserError(f"--eval-size {self.eval_size:g} is no number of rows.", hint))
        if not self.streaming:
            return found
        if self.max_steps is None:
            found.append(UserError("The data are a stream, and nobody knows its end.", "Give --max-steps."))
        if self.eval_size >= 1:
            hint = "Give the share of the prompts to hold out, as in --eval-size 0.01, or a file with --eval-data."
            found.append(UserError("--eval-size is a number of rows, and a stream has no known number.", hint))
        if self.reference_store not in (None, "off"):
            hint = "Leave it out: the reference of a stream is computed in every step."
            found.append(UserError("--reference-store keeps log-probs of whole data, and a stream is none.", hint))
        return found


SECTIONS: dict[str, str] = {
    "model": "what to train, and where",
    "reference": "model",
    "lora_rank": "adapter",
    "columns": "data",
    **dict.fromkeys(("loss", "segments", "token_weights", "condition_on"), "loss"),
    "pairing": "data",
    "image_model": "images",
    "batch_size": "optimisation",
    "eval_steps": "evaluation, checkpoints and trackers",
}
"""Headings of the help page, each by the first field that stands under it."""

RANGES = (
    Range(
        (
            *("batch_size", "max_steps", "eval_steps", "save_steps", "logging_steps", "max_prompt_length"),
            *("early_stopping_patience", "dataset_num_proc", "reference_sync_steps", "noise_draws", "images_per_batch"),
        ),
        least=1,
        most=2**31 - 1,
    ),
    Range(("learning_rate", "value_learning_rate", "prm_learning_rate", "image_learning_rate"), above=0, most=1_000),
    Range(("epochs",), above=0, most=1_000_000),
    Range(("reference_mixup_alpha", "adam_epsilon"), above=0, most=1),
    Range(("lora_alpha",), above=0, most=1_000_000),
    Range(("condition_scale",), least=-1000, most=1000),
    Range(("lora_rank",), least=0, most=8192),
    Range(("warmup_steps", "eval_size", "keep_checkpoints", "shuffle_buffer"), least=0, most=2**31 - 1),
    Range(("weight_decay", "max_grad_norm"), least=0, most=1_000_000),
    Range(("same_length",), least=0, below=10),
    Range(("warmup_ratio", "lora_dropout", "adam_beta1", "adam_beta2"), least=0, below=1),
)
"""The ranges of a training's numbers, beside those that all configurations share."""
