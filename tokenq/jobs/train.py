"""`tokenq.train`: train a policy or a reward model from Python."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tokenq.data.streams.rows import GIVEN
from tokenq.diffusion.open import is_image_model
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, NamedInput, RowsInMemory, data_source, is_stream, model_source
from tokenq.jobs.run import Run
from tokenq.jobs.training.images.cells import at_hand
from tokenq.jobs.training.images.run import run as train_images
from tokenq.jobs.training.images.settings import refuse_without_images
from tokenq.jobs.training.run import run
from tokenq.listener import SILENCE, Listener
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig

_ROWS = ("data", "eval_data")
"""Keywords that take rows."""


def train(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    model: Name | InMemory,
    data: Name | RowsInMemory,
    output: Name,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
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
    loss: str = "dpo",
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
    batch_size: int = 8,
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
    """Train a policy, or a reward model, and return the run.

    The settings are those of `tokenq train` (`tokenq train --help` has a line each), and so are files and formats:
    `tokenq train --config OUTPUT/config.yaml --resume` goes on with a run that Python began. Loaded models and rows in
    memory are written to OUTPUT/inputs; a copy of the model is trained. What the program around draws at random, its
    loggers and its accelerate are as they were afterwards.

    Args:
        model: a folder, a hub id, a loaded model of `transformers`, or (model, tokenizer).
        data: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries; or rows of
            unknown number: a `datasets.IterableDataset`, an iterable, or a function that returns one.
        output: the folder of the run.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    given = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in locals().items()}
    for name in ("tokenizer", "listener"):
        del given[name]
    run_dir = RunDir(Path(output).expanduser().absolute())
    source = model_source(model, tokenizer, run_dir.inputs / "model")
    stream = data if is_stream(data) else None
    pictured = image_model is not None or is_image_model(source.names[0])
    named = columns if pictured else None
    written = {name: (run_dir.inputs / f"{name}.jsonl", _plain(name, run_dir, named)) for name in _ROWS}
    rows = NamedInput([GIVEN]) if stream is not None else data_source(data, *written["data"])
    given["streaming"] = streaming or stream is not None
    held_out = data_source(eval_data, *written["eval_data"])
    given |= {"model": source.names[0], "data": rows.names, "eval_data": held_out.names}
    with untouched():
        config = TrainConfig(**given)
        writes = source.write, rows.write, held_out.write
        if pictured:
            train_images(config, listener, writes)
        else:
            refuse_without_images(config)
            run(config, listener, writes, stream)
    return Run(run_dir.path)


def _plain(name: str, run: RunDir, columns: Mapping[str, str] | None) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Return what makes rows in memory such as JSON has them; `columns` is None where they hold no pictures."""
    return iter if columns is None else partial(at_hand, folder=run.inputs / f"{name}_pictures", columns=columns)
