"""Rows that are evaluated on and were trained on: said, since such numbers flatter."""

from collections.abc import Sequence
from pathlib import Path

from tokenq.errors import UserError
from tokenq.evaluation.config import ReadEvaluation
from tokenq.listener import Listener
from tokenq.records.examples import Example
from tokenq.rundir import RunDir
from tokenq.runs.data import data_of_run
from tokenq.runs.record import read_run


def warn_of_overlap(config: ReadEvaluation, examples: Sequence[Example], listener: Listener) -> None:
    """Say how many of the rows, or at least of their prompts, stand in the training data of the run.

    A run is known by --run, or by the folder that a policy lies in. What cannot be read any more is not compared.

    Args:
        config: names the run or the policy.
        examples: what is evaluated on.
        listener: told so.
    """
    folder = _run_of(config)
    if folder is None:
        return
    try:
        trained = data_of_run(read_run(folder))[1]
    except UserError:
        return
    rows, prompts = {_row(one) for one in trained}, {str(one.prompt) for one in trained}
    seen, asked = sum(_row(one) in rows for one in examples), sum(str(one.prompt) in prompts for one in examples)
    if asked:
        listener.say(
            f"warning: {seen} of {len(examples)} rows were trained on in {folder}, and {asked} of their prompts: the "
            "numbers say how well these were learnt, not how good the policy is on others"
        )


def _run_of(config: ReadEvaluation) -> Path | None:
    if config.run is not None:
        return Path(config.run).expanduser()
    if config.policy is None:
        return None
    folder = Path(config.policy).expanduser().parent
    run = RunDir(folder)
    return folder if run.config.is_file() and run.provenance.is_file() else None


def _row(example: Example) -> tuple[str, frozenset[str]]:
    return str(example.prompt), frozenset(str(response.content) for response in example.responses)
