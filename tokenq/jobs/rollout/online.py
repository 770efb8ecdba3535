"""`tokenq.online`: learn from one's own responses, from Python."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from tokenq.diffusion.open import is_image_model
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, RowsInMemory, data_source, model_source
from tokenq.jobs.rollout.pictures.run import run_pictures
from tokenq.jobs.rollout.pictures.settings import refuse_picture_settings
from tokenq.jobs.rollout.run import run
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.rollout.config import OnlineConfig
from tokenq.rundir import RunDir


def _run_texts(config: OnlineConfig, listener: Listener, writes: Sequence[Callable[[], None]]) -> None:
    refuse_picture_settings(config)
    run(config, listener, writes)


RUNS = {"texts": _run_texts, "pictures": run_pictures}
"""What trains in rounds, by what the model writes."""


def online(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    model: Name | InMemory,
    prompts: Name | RowsInMemory,
    output: Name,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    data: Name | RowsInMemory = (),
    eval_prompts: Name | RowsInMemory = (),
    method: str = "dpo",
    rounds: int = 3,
    prompts_per_round: int | None = None,
    replay: float | None = None,
    reference_moves: Literal["auto", "never", "round"] = "auto",
    on_empty_round: Literal["continue", "stop"] = "continue",
    environment: str | None = None,
    environment_options: Mapping[str, str] = {},
    environment_seeds: int = 16,
    max_turns: int | None = None,
    step_timeout: float = 60.0,
    when_full: Literal["end", "cut"] = "end",
    subtract_luck: bool = False,
    writer: str = "local",
    writer_model: str | None = None,
    sync: Literal["auto", "lora", "reload", "command"] = "auto",
    sync_command: str | None = None,
    max_staleness: int = 0,
    samples: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    eos: Sequence[str] = (),
    prompts_per_batch: int | None = None,
    image_steps: int = 20,
    image_eta: float = 1.0,
    image_guidance: float | None = None,
    judge: str | None = None,
    judge_run: str | None = None,
    base_url: str | None = None,
    answer: str | None = None,
    gold: str | None = None,
    reward_model: str | None = None,
    reward_weights: Mapping[str, str] = {},
    condition: Mapping[str, float] = {},
    label_budget: int | None = None,
    flip_labels: float = 0.0,
    pairs: Literal["auto", "best_worst", "all", "bradley_terry", "length_regularised", "shared_prefix"] = "auto",
    truncated: Literal["keep", "drop", "mask", "zero", "bootstrap"] = "keep",
    credit: Literal["auto", "returns", "group", "leave_one_out", "gae", "implicit", "prime"] = "auto",
    token_rewards: Literal["auto", "none", "implicit", "prime", "reward_model", "judge"] = "auto",
    token_reward_form: Literal["auto", "scaled", "potential", "baseline"] = "auto",
    token_reward_weight: float | None = None,
    token_reward_clip: float | None = None,
    credit_run: str | None = None,
    gamma: float | None = None,
    lam: float | None = None,
    scale_rewards: Literal["auto", "group", "batch", "none"] = "auto",
    reward_clip: float | None = None,
    whiten_advantages: bool | None = None,
    normalise_values: bool = False,
    filter_accuracy: Sequence[float] = (),
    kl: Literal["auto", "none", "reward", "loss"] = "auto",
    kl_estimator: Literal["auto", "k1", "k2", "k3"] = "auto",
    importance_correction: Literal["none", "token", "sequence", "icepop", "geometric"] = "none",
    importance_cap: float | None = None,
    credit_span: Literal["token", "turn"] = "token",
    allow_cut_support: bool = False,
    reference: Name | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    device: str = "auto",
    lora_rank: int = 0,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_targets: Sequence[str] = (),
    adapter: str | None = None,
    base: str | None = None,
    streaming: bool = False,
    shuffle_buffer: int | None = None,
    dataset_num_proc: int = 1,
    columns: Mapping[str, str] = {},
    bad_rows: Literal["error", "drop"] = "error",
    pairing: Literal["best_worst", "all", "adjacent", "votes"] = "best_worst",
    same_length: float | None = None,
    style: Literal["as_given", "chat"] = "as_given",
    chat_template: str | None = None,
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    truncation: Literal["drop", "error", "prompt_left", "response_right", "both"] = "drop",
    eval_data: Name | RowsInMemory = (),
    eval_size: float = 0,
    loss: str = "auto",
    attributes: Sequence[str] = (),
    condition_on: Sequence[str] = (),
    condition_scale: Sequence[float] = (),
    beta: float | None = None,
    loss_options: Mapping[str, str] = {},
    segments: Mapping[str, float] = {},
    segment_starts: Mapping[str, str] = {},
    image_model: str | None = None,
    image_learning_rate: float | None = None,
    image_term: Literal["auto", "error", "trajectory"] = "auto",
    image_weights: Literal["log_snr", "constant"] = "log_snr",
    noise_draws: int = 1,
    images_per_batch: int = 16,
    token_weights: str | None = None,
    token_traces: str | None = None,
    token_weight_options: Mapping[str, float] = {},
    reference_store: str | None = None,
    reference_sync_steps: int | None = None,
    reference_mixup_alpha: float | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int = 4096,
    learning_rate: float | None = None,
    value_learning_rate: float | None = None,
    prm_learning_rate: float | None = None,
    epochs: float = 1.0,
    max_steps: int | None = None,
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
    warmup_steps: int | None = None,
    warmup_ratio: float = 0.0,
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw",
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    gradient_checkpointing: bool = False,
    seed: int = 0,
    eval_steps: int | None = None,
    save_steps: int | None = None,
    keep_checkpoints: int = 1,
    keep_best: str | None = None,
    early_stopping_patience: int | None = None,
    save_only_model: bool = False,
    resume: bool = False,
    logging_steps: int = 10,
    report_to: Sequence[str] = (),
    run_name: str | None = None,
) -> Run:
    """Write, judge and learn in rounds, and return the run.

    The settings are those of `tokenq online` (`tokenq online --help` has a line each), and so are files and formats:
    `tokenq online --config OUTPUT/config.yaml --resume` goes on with a run that Python began. Loaded models and rows in
    memory are written to OUTPUT/inputs; a copy of the model is trained.

    Args:
        model: a folder, a hub id, a loaded model of `transformers`, or (model, tokenizer).
        prompts: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries; () with an
            environment.
        output: the folder of the run.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.
        data: pairs that are there before the first round, in the same forms.
        eval_prompts: prompts to evaluate on, in the same forms.

    Raises:
        UserError: for anything that the user can mend.
    """
    given = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in locals().items()}
    for name in ("tokenizer", "listener"):
        del given[name]
    run_dir = RunDir(Path(output).expanduser().absolute())
    source = model_source(model, tokenizer, run_dir.inputs / "model")
    asked = data_source(prompts, run_dir.inputs / "prompts.jsonl")
    rows = data_source(data, run_dir.inputs / "data.jsonl")
    held_out = data_source(eval_prompts, run_dir.inputs / "eval_prompts.jsonl")
    given |= {"model": source.names[0], "prompts": asked.names, "data": rows.names, "eval_prompts": held_out.names}
    writes = (source.write, asked.write, rows.write, held_out.write)
    with untouched():
        config = OnlineConfig(**given)
        RUNS["pictures" if is_image_model(config.model) else "texts"](config, listener, writes)
    return Run(run_dir.path)
