"""What a run on pictures trained: an image model, alone or behind a refiner, and what each is read against."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.diffusion.open import is_image_model
from tokenq.jobs.training.images.settings import IMAGE, REFINER
from tokenq.models.load import ModelSpec
from tokenq.rundir import RunDir
from tokenq.runs.places import home_of, models_of_run, policy_in, run_folder
from tokenq.training.recorded import read_provenance


@dataclass(frozen=True)
class PictureRun:
    """The models of a run on pictures.

    Attributes:
        image: the image model.
        reference: the image model that it was trained from, None where the run names none.
        refiner: the language model that rewrites prompts before it; None where an image model was trained alone.
        refiner_reference: what the refiner was trained from; None for the base of an adapter too.
        beta: KL temperature of words, or of steps where there are none; None where the loss has none.
        image_beta: KL temperature of steps behind a refiner.
    """

    image: Path
    reference: str | None
    refiner: ModelSpec | None
    refiner_reference: ModelSpec | None
    beta: float | None
    image_beta: float | None


def image_model_in(named: Any) -> Path | None:
    """Return the folder of the image model that a run, or a checkpoint of one, trained; None for anything else.

    Args:
        named: a run, or what stands for a model.
    """
    folder = run_folder(named)
    if folder is None:
        return None
    return next((one for one in (RunDir(folder).image_policy, policy_in(folder)) if is_image_model(one)), None)


def is_behind_a_refiner(named: Any) -> bool:
    """Return whether a run, or a checkpoint of one, trained an image model behind a refiner."""
    folder = run_folder(named)
    return folder is not None and image_model_in(named) == RunDir(folder).image_policy


def picture_run(named: Any, spec: ModelSpec) -> PictureRun | None:
    """Return the models of a run on pictures; None for anything else.

    Args:
        named: its folder, or that of one of its checkpoints.
        spec: how models are loaded.

    Raises:
        UserError: the run's record cannot be read.
    """
    image, folder = image_model_in(named), run_folder(named)
    if image is None or folder is None:
        return None
    made = models_of_run(str(folder), spec)
    config = read_provenance(home_of(folder) or RunDir(folder))["config"]
    behind = config.get("image_model")
    if behind is None:
        reference = None if made.reference is None else made.reference.path
        return PictureRun(image, reference, None, None, made.beta, None)
    strengths = config.get("segments") or {}
    beta, image_beta = (strengths.get(name, made.beta) for name in (REFINER, IMAGE))
    return PictureRun(image, str(behind), made.policy, made.reference, beta, image_beta)
