"""`tokenq.train`: train a policy or a reward model from Python."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenq.data.streams.rows import GIVEN
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import (
    InMemory,
    Name,
    NamedInput,
    RowsInMemory,
    data_source,
    is_stream,
    model_source,
    settings_of,
)
from tokenq.jobs.run import Run
from tokenq.jobs.training.run import run
from tokenq.listener import SILENCE, Listener
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig


@settings_of(TrainConfig)
def train(  # noqa: D417 (one keyword a setting, each explained there)
    model: Name | InMemory,
    data: Name | RowsInMemory,
    output: Name,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    eval_data: Name | RowsInMemory = (),
    **settings: Any,
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
    run_dir = RunDir(Path(output).expanduser().absolute())
    source = model_source(model, tokenizer, run_dir.inputs / "model")
    stream = data if is_stream(data) else None
    rows = NamedInput([GIVEN]) if stream is not None else data_source(data, run_dir.inputs / "data.jsonl")
    held_out = data_source(eval_data, run_dir.inputs / "eval_data.jsonl")
    settings |= {"streaming": settings["streaming"] or stream is not None, "output": output}
    settings |= {"model": source.names[0], "data": rows.names, "eval_data": held_out.names}
    with untouched():
        run(TrainConfig(**settings), listener, (source.write, rows.write, held_out.write), stream)
    return Run(run_dir.path)
