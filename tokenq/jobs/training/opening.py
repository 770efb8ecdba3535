"""The opening of a training run, whatever is trained: its machine, its folder, its seed, and who is told."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, NamedTuple, TypeVar

from accelerate import Accelerator
from accelerate.utils import set_seed

from tokenq.core.losses import LossSum
from tokenq.jobs.training.machine import accelerator_for
from tokenq.jobs.training.output import open_run, record_run, refuse_taken
from tokenq.listener import SILENCE, Listener
from tokenq.rundir import RunDir, provenance
from tokenq.training.config import TrainConfig
from tokenq.training.recorded import Changes

C = TypeVar("C", bound=TrainConfig)
C_co = TypeVar("C_co", bound=TrainConfig, covariant=True)


class OpenRun(NamedTuple, Generic[C_co]):
    """A run whose folder is held: what was asked for, and where it is done.

    Attributes:
        config: the settings, none of them open.
        loss: what is minimised.
        folder: where it is written.
        changed: by what the run's length changes, on a resume.
        accelerator: where it computes, with how many processes.
        listener: who is told, on the main process; nobody on others.
    """

    config: C_co
    loss: LossSum
    folder: RunDir
    changed: Changes
    accelerator: Accelerator
    listener: Listener

    def record(self, identities: Mapping[str, Any]) -> None:
        """Write the settings and where the run comes from, now that it can start.

        Args:
            identities: of models and data, and what follows from them.

        Raises:
            UserError: the run began with other data or weights; on all processes.
        """
        machine = {"device": f"{self.accelerator.device} x {self.accelerator.num_processes}"}
        start = provenance(asdict(self.config), self.config.seed, {**identities, **machine})
        record_run(self.folder, self.config, start, self.changed, self.accelerator)


@contextlib.contextmanager
def opened(
    config: C,
    loss: LossSum,
    listener: Listener,
    writes: Sequence[Callable[[], None]],
    refuse: Callable[[Accelerator], None] = lambda accelerator: None,
) -> Iterator[OpenRun[C]]:
    """Hold the folder of a run inside the block, with the seed set and what was given in memory written down.

    Args:
        config: settings of the run.
        loss: what is minimised.
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
    with open_run(config, accelerator) as (folder, changed):
        set_seed(config.seed)
        if accelerator.is_main_process:
            for write in writes:
                write()
        accelerator.wait_for_everyone()
        yield OpenRun(config, loss, folder, changed, accelerator, listener if accelerator.is_main_process else SILENCE)
