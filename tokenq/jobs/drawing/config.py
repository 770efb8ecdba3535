"""What `tokenq draw` may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenq.errors import UserError
from tokenq.options import DeviceOptions, RowOptions, judge_kind
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class DrawConfig(DeviceOptions, RowOptions):
    """Draw pictures with an image model: each with its seeds, its way from the noise, and log-densities."""

    model: str
    """Image model: the folder of a diffusers pipeline, or a run of tokenq train on one, with its refiner if it has
    one."""
    prompts: Sequence[str]
    """Files of prompts: a column prompt, or any data that tokenq train reads."""
    output: str
    """File of drawings: .jsonl, one line per picture. The pictures lie in a folder beside it, named like the file."""
    refiner: str | None = None
    """A language model that rewrites each prompt before it is drawn, anew for every picture."""
    samples: int = 2
    """Pictures of a prompt."""
    steps: int = 20
    """Denoising steps of a picture."""
    sampler: Literal["ancestral", "flow_sde"] = "ancestral"
    """How a step is drawn: ancestral, DDIM's step with new noise, for all models; flow_sde, Flow-GRPO's, for flows."""
    eta: float = 1.0
    """How much noise a step adds: 1 is as much as DDPM adds. At 0 nothing is decided, and there are no densities."""
    guidance: float | None = None
    """Scale of classifier-free guidance; 1 is none. Default: the one that the model was trained with, else 1."""
    same_noise: bool = True
    """All pictures of a prompt begin in the same noise, so that what it is worth cancels between them."""
    temperature: float = 1.0
    """Temperature of the refiner's words."""
    max_new_tokens: int = 64
    """Maximum number of tokens that the refiner writes."""
    judge: str | None = None
    """FILE.py:FUNCTION, a function of prompts and pictures (as PIL has them) that returns their rewards, or
    reward_model."""
    reward_model: str | None = None
    """For --judge reward_model: a model that says how well a picture fits a text, such as CLIP, SigLIP or PickScore."""
    pairs: str | None = None
    """File of pairs to train on, .jsonl: of each prompt the best picture against the worst, by --judge."""
    batch_size: int = 16
    """Pictures that are drawn side by side. Affects memory and speed, and how numbers are rounded."""
    seed: int = 0
    """Seed of everything that is drawn."""
    overwrite: bool = False
    """Replace files that this command did not write."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: names the flags.
        """
        if self.eta == 0:
            raise UserError(
                "--eta 0 draws without noise: no step is a choice, so there are no log-densities to learn from.",
                "Give --eta 1, as DDPM has it, or a number above 0.",
            )
        check_ranges(self, RANGES)
        for name in ("output", "pairs"):
            path = getattr(self, name)
            if path is not None and not path.endswith(".jsonl"):
                raise UserError(f"--{name} {path}: the form is not known.", "Name it .jsonl.")
        if self.judge is not None or self.reward_model is not None:
            refuse_judge(self.judge, self.reward_model)
        if self.pairs is not None and (self.judge is None or self.samples < 2):
            missing = "--judge" if self.judge is None else "--samples 2 or more"
            raise UserError(f"--pairs needs {missing}.", "A pair is the best picture of a prompt against the worst.")


SEEING = ("function", "reward_model")
"""Kinds of judges that see pictures."""


def refuse_judge(judge: str | None, reward_model: str | None) -> None:
    """Refuse a judge that does not see pictures, and a model without the judge that asks it.

    Raises:
        UserError: names the flag.
    """
    kind = None if judge is None else judge_kind(judge)
    if kind is not None and kind not in SEEING:
        raise UserError(
            f"--judge {judge} cannot judge pictures.",
            "Name a function of prompts and pictures, --judge FILE.py:FUNCTION, or --judge reward_model with a "
            "--reward-model such as CLIP.",
        )
    if (kind == "reward_model") != (reward_model is not None):
        raise UserError(
            "--judge reward_model and --reward-model go together for pictures.",
            "Give both: --judge reward_model --reward-model CLIP, or neither.",
        )


RANGES = (
    Range(("samples",), least=1, most=10_000),
    Range(("steps",), least=1, most=10_000),
    Range(("eta",), above=0, most=1),
    Range(("guidance",), least=0, most=1000),
)

SECTIONS = {
    "model": "models",
    **dict.fromkeys(("prompts", "columns"), "what to draw"),
    **dict.fromkeys(("samples", "refiner"), "how to draw"),
    **dict.fromkeys(("output", "judge", "reward_model", "overwrite"), "what comes out"),
    **dict.fromkeys(("batch_size", "dtype"), "how"),
}
SPELT_ELSEWHERE = {
    "policy": "model",
    "run": "model",
    "pipeline": "model",
    "data": "prompts",
    "n": "samples",
    "num_images_per_prompt": "samples",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "max_tokens": "max_new_tokens",
    "generator": "seed",
}
