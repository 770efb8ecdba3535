"""The opening of a training run, whatever is trained: its machine, its folder, its seed, and who is told."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import set_seed

from tokenq.jobs.training.machine import accelerator_for
from tokenq.jobs.training.output import open_run, refuse_taken
from tokenq.listener import SILENCE, Listener
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig
from tokenq.training.recorded import Changes


class Opening(NamedTuple):
    """A run whose folder is held.

    Attributes:
        run: its folder.
        changed: by what the run's length changes, on a resume.
        accelerator: where it computes, with how many processes.
        listener: who is told, on the main process; nobody on others.
    """

    run: RunDir
    changed: Changes
    accelerator: Accelerator
    listener: Listener


@contextlib.contextmanager
def opened(
    config: TrainConfig,
    listener: Listener,
    writes: Sequence[Callable[[], None]],
    refuse: Callable[[Accelerator], None] = lambda accelerator: None,
) -> Iterator[Opening]:
    """Hold the folder of a run inside the block, with the seed set and what was given in memory written down.

    Args:
        config: settings of the run.
        listener: told what is found, and how far it is.
        writes: write down what was given in memory, once the folder is held.
        refuse: refuses machines that the run cannot use, before anything is written.

    Raises:
        UserError: the folder is taken, or the machine cannot be used.
    """
    if not config.resume:
        refuse_taken(config.output)
    accelerator = accelerator_for(config)
    refuse(accelerator)
    with open_run(config, accelerator) as (run, changed):
        set_seed(config.seed)
        if accelerator.is_main_process:
            for write in writes:
                write()
        accelerator.wait_for_everyone()
        yield Opening(run, changed, accelerator, listener if accelerator.is_main_process else SILENCE)
