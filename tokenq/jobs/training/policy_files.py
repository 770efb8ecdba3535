"""The folders that a training writes its policy, or reward model, into: its checkpoints', and the last one."""

import atexit
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor

import tokenq
from tokenq.jobs.training.card import Card, Kind
from tokenq.jobs.training.merging import merges
from tokenq.jobs.training.opening import OpenRun
from tokenq.models.export import Form, adapter_weights, export_policy, read_policy, write_policy
from tokenq.models.forward.packed_lm import PackedLM, is_peft
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.rundir import RunDir, record_best
from tokenq.training.checkpoint import gathered_policy
from tokenq.training.checks import together
from tokenq.training.config import TrainConfig
from tokenq.training.job import PolicyFiles, Summary
from tokenq.training.optim import Exact


class ResultWriter(Protocol):
    """Writes the result of a run."""

    @property
    def run(self) -> RunDir:
        """The run's folder."""
        ...

    def finish(self, state: Mapping[str, Tensor] | None, steps: int, found: Mapping[str, float]) -> None:
        """Write the result, given gathered weights, the updates done and the last evaluation."""
        ...


@dataclass(frozen=True)
class PolicyWriter:
    """What is trained, and all that goes into its folder.

    Attributes:
        lm: the policy, or reward model.
        tokenizer: goes with it.
        config: the run's settings.
        run: the run's folder.
        form: whether an adapter is merged.
    """

    lm: PackedLM | RewardLM
    tokenizer: Any
    config: TrainConfig
    run: RunDir
    form: Form

    @property
    def place(self) -> Path:
        """The folder of the run's result."""
        return self.run.policy if isinstance(self.lm, PackedLM) else self.run.reward_model

    def files(self) -> PolicyFiles:
        """Return how checkpoints hold it: an adapter that is merged there lies beside it as well."""
        if self.form == "merged":
            return PolicyFiles(self._write, lambda _folder, _exact: None, lambda exact: adapter_weights(self.lm, exact))
        return PolicyFiles(self._write, lambda folder, exact: read_policy(self.lm, folder, exact), lambda _exact: {})

    def finish(self, state: Mapping[str, Tensor] | None, steps: int, found: Mapping[str, float]) -> None:
        """Write the result of the run.

        Args:
            state: the gathered weights, where they are spread over processes.
            steps: updates done.
            found: the last evaluation.
        """
        export_policy(self.lm, self.tokenizer, self.place, self._card(self.place.name, steps, found), state, self.form)

    def _write(self, folder: Path, step: int, exact: Exact, gathered: Mapping[str, Tensor] | None) -> None:
        write_policy(self.lm, self.tokenizer, folder, self._card(f"step-{step}", step, {}), exact, gathered, self.form)

    def _card(self, name: str, steps: int, found: Mapping[str, float]) -> str:
        config = self.config
        facts = {
            "steps": steps,
            "batch size": config.batch_size,
            "learning rate": config.learning_rate,
            **({} if config.beta is None else {"beta": config.beta}),
            **config.loss_options,
            **self._moves(),
        }
        kind: Kind = "adapter" if is_peft(self.lm.model) and self.form == "as_trained" else "policy"
        card = Card(
            kind if isinstance(self.lm, PackedLM) else "reward model",
            self.run.path.name,
            name,
            config.model,
            config.loss,
            config.data,
            facts,
            found,
            {"tokenq": tokenq.__version__},
        )
        return card.text()

    def _moves(self) -> dict[str, str]:
        every, alpha = self.config.reference_sync_steps, self.config.reference_mixup_alpha
        return (
            {} if every is None else {"reference": f"moved every {every} steps by {alpha:g} of the way to the policy"}
        )


def policy_writer(run: OpenRun[TrainConfig], lm: PackedLM | RewardLM, tokenizer: Any) -> PolicyWriter:
    """Return what writes the policy of a run."""
    form: Form = "merged" if merges(run.config, run.loss) else "as_trained"
    return PolicyWriter(lm, tokenizer, run.config, run.folder, form)


def finish(writer: ResultWriter, summary: Summary, accelerator: Accelerator) -> None:
    """Write the result of a run.

    The group of processes is left at exit, and not here: its last owner ends its threads, and a model over several
    processes would do so while it holds the interpreter, for which one of these threads may be waiting.
    """
    state = gathered_policy(accelerator, summary.policy) if accelerator.num_processes > 1 else None

    def write() -> None:
        if accelerator.is_main_process:
            writer.finish(state, summary.steps, summary.after)
            if summary.best is not None:
                record_best(writer.run, summary.best)

    together(write, accelerator)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    atexit.register(accelerator.state.destroy_process_group)
