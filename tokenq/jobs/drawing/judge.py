"""A judge of pictures: a function of the user's own, FILE.py:NAME, or a model that reads pictures and texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.diffusion.matching import open_matcher
from tokenq.errors import UserError
from tokenq.files import digest_of
from tokenq.judge.function import load_callable
from tokenq.models.identity import identify
from tokenq.models.load import device_of
from tokenq.options import judge_kind

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class PictureJudge:
    """Says what pictures are worth.

    Attributes:
        name: FILE.py:NAME, or the model's.
        identity: a hash of the program, or of the weights.
        function: (prompts, pictures as PIL has them) → what each picture is worth.
    """

    name: str
    identity: str
    function: Callable[[list[str], "list[Image]"], Any]

    def __call__(self, prompts: Sequence[str], paths: Sequence[Path]) -> list[float]:
        """Return what pictures are worth, larger is better.

        Args:
            prompts: what was asked for each.
            paths: the files of the pictures.

        Raises:
            UserError: a picture cannot be read; the function raises, or gives something else than a number for each.
        """
        pictures = [read_picture(path) for path in paths]
        try:
            found = [float(value) for value in self.function(list(prompts), pictures)]
        except Exception as problem:
            raise UserError(
                f"--judge {self.name} failed on {len(paths)} pictures: {problem!r}.",
                "What was judged before is kept: mend the function, and start again with the same command.",
            ) from problem
        if len(found) != len(paths):
            raise UserError(
                f"--judge {self.name} gave {len(found)} numbers for {len(paths)} pictures.",
                "It takes (prompts, pictures) and returns a number for each picture.",
            )
        odd = next((place for place, value in enumerate(found) if not isfinite(value)), None)
        if odd is not None:
            raise UserError(f"--judge {self.name} gave {found[odd]} for {paths[odd]}.", "Return finite numbers.")
        return found


def picture_judge(name: str, reward_model: str | None = None, device: str = "auto") -> PictureJudge:
    """Return the judge of a name.

    Args:
        name: FILE.py:NAME, or "reward_model".
        reward_model: the model's folder or hub id.
        device: where it computes.

    Raises:
        UserError: there is no such file or no such function in it, or the model does not read pictures and texts.
    """
    if reward_model is None or judge_kind(name) == "function":
        file = Path(name.rpartition(":")[0]).expanduser()
        return PictureJudge(name, digest_of(file), load_callable(name, "--judge "))
    matcher = open_matcher(reward_model, str(device_of(device)))
    return PictureJudge(reward_model, identify(matcher.network, reward_model).weights, matcher.scores)


def read_picture(path: Path, where: str = "") -> "Image":
    """Return the picture of a file, decoded.

    Args:
        path: the file.
        where: the row that names it, for the error.

    Raises:
        UserError: there is no such file, or it cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    told = f"{where}: " if where else ""
    try:
        with Image.open(path) as found:
            return found.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{told}{path} is no picture that can be decoded.", "PNG, JPEG and WebP are read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        said = (problem.strerror if isinstance(problem, OSError) else None) or problem
        raise UserError(f"{told}the picture {path} cannot be read: {said}.", "Write the file again.") from None
