"""The folders that a training writes an image model into: its checkpoints', and the last one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import tokenq
from tokenq.diffusion.model import ImageModel
from tokenq.files import folder_aside
from tokenq.jobs.training.card import Card
from tokenq.jobs.training.images.settings import plain_settings
from tokenq.jobs.training.policy_files import PolicyWriter
from tokenq.rundir import RunDir
from tokenq.training.config import TrainConfig
from tokenq.training.job import PolicyFiles
from tokenq.training.optim import Exact


@dataclass(frozen=True)
class ImageWriter:
    """An image model that is trained, and the folders of its run.

    Attributes:
        model: the image model.
        config: the run's settings.
        run: the run's folder.
        refiner: writes the refiner that stands before it; None where there is none.
    """

    model: ImageModel
    config: TrainConfig
    run: RunDir
    refiner: PolicyWriter | None = None

    @property
    def place(self) -> Path:
        """The folder of the image model at the end of the run."""
        return self.run.policy if self.refiner is None else self.run.image_policy

    def files(self) -> PolicyFiles:
        """Return how checkpoints hold it.

        Its weights lie beside it a second time, under their own names and to the last bit: a folder of diffusers holds
        them rounded to the type of the pipeline, and an adapter merged.
        """
        if self.refiner is None:
            return PolicyFiles(self._write_alone, lambda _folder, _exact: None, self._weights)
        words = self.refiner.files()

        def write(folder: Path, step: int, exact: Exact, gathered: Mapping[str, Tensor] | None) -> None:
            words.write(folder, step, exact, gathered)
            self._write(folder / self.run.image_policy.name, f"step-{step}", step, {})

        return PolicyFiles(write, words.read, words.beside)  # the image model is a network beside the refiner

    def finish(self, state: Mapping[str, Tensor] | None, steps: int, found: Mapping[str, float]) -> None:
        """Write the result of the run.

        Args:
            state: the gathered weights of the refiner, where several processes have trained it.
            steps: updates done.
            found: the last evaluation.
        """
        if self.refiner is not None:
            self._write(self.place, self.place.name, steps, found)
            self.refiner.finish(state, steps, found)
            return
        self._write(self.place, self.place.name, steps, found)

    def _write_alone(self, folder: Path, step: int, exact: Exact, gathered: Mapping[str, Tensor] | None) -> None:
        del exact, gathered  # every process has all weights; see `files`
        self._write(folder, f"step-{step}", step, {})

    def _weights(self, exact: Exact) -> Mapping[str, Tensor]:
        named = self.model.denoiser.named_parameters()
        return {f"image.{name}": exact(one).detach() for name, one in named if one.requires_grad}

    def _write(self, folder: Path, name: str, steps: int, found: Mapping[str, float]) -> None:
        """Write a folder that diffusers opens, with its card."""
        with folder_aside(folder) as aside:
            self.model.save(aside)
            (aside / "README.md").write_text(self._card(name, steps, found), encoding="utf-8")

    def _card(self, name: str, steps: int, found: Mapping[str, float]) -> str:
        config = self.config
        facts = {
            "steps": steps,
            "batch size": config.batch_size,
            "learning rate": config.image_learning_rate or config.learning_rate,
            **({} if config.beta is None else {"beta": config.beta}),
            **config.loss_options,
            **plain_settings(config),
        }
        base = config.image_model or config.model
        versions = {"tokenq": tokenq.__version__}
        return Card(
            "image model", self.run.path.name, name, base, config.loss, config.data, facts, found, versions
        ).text()
