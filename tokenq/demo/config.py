"""What a demonstration may be asked for. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from tokenq.errors import UserError
from tokenq.options import DeviceOptions, TextOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class DemoConfig(DeviceOptions, TextOptions):
    """See what "a language model is a Q-function" means: train, read, search, and a report with three figures."""

    output: str = "runs/demo"
    """Folder of everything; the report is in report/index.html."""
    seed: int = 0
    """Seed of the world, of the model, of all trainings and of everything that is drawn."""
    quick: bool = False
    """An easier world and fewer posts or pictures: one to two minutes, with wider intervals."""
    images: bool = False
    """With pictures: a refiner of prompts and an image model learn from the same labels, apart and together."""

    model: str | None = None
    """A model of your own instead of the tiny one: a folder, a hub id, or a .gguf file."""
    data: Sequence[str] = ()
    """Preferences for it, in every form that tokenq train reads."""
    errors: str | None = None
    """Column with the wrong stretches of the rejected response, [[start, end], …] in characters, if there is one."""
    pairs: int = 300
    """Maximum number of pairs to train on."""
    held_out: int = 100
    """Pairs that nothing is trained on: for accuracies, for credit and for falling likelihoods."""
    prompts: int = 24
    """Held-out prompts that are searched."""
    reward_model: str | None = None
    """A sequence classifier with one output that judges what searches find."""
    judge: str | None = None
    """Name of a model behind an OpenAI-compatible endpoint that compares beams with greedy decoding."""
    lora_rank: int = 16
    """Rank of the adapters; 0 trains all weights."""
    beta: float = 0.1
    """Temperature of the KL penalty."""
    sft_learning_rate: float = 2e-4
    """Peak learning rate of SFT on the chosen responses."""
    learning_rate: float = 5e-5
    """Peak learning rate of DPO."""
    batch_size: int = 16
    """Pairs (SFT: responses) per step."""
    max_length: int = 512
    """Maximum number of tokens in prompt plus response; longer pairs are left out."""
    max_new_tokens: int = 128
    """Maximum number of tokens in a response that is searched for."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        if (self.model is None) != (not self.data):
            given, missing = ("--data", "--model") if self.model is None else ("--model", "--data")
            raise UserError(f"{given} needs {missing}.", "Give both for a model of your own, or neither.")
        changed = [
            one.name for one in fields(self) if one.name in _OWN and getattr(self, one.name) != _default(one.name)
        ]
        if self.model is None and changed:
            flag = changed[0].replace("_", "-")
            raise UserError(f"--{flag} has no effect without --model.", "Give --model and --data, or leave it out.")
        if self.model is not None and self.images:
            raise UserError("--images has a tiny world of its own.", "Leave out --model and --data, or --images.")
        if self.model is not None and self.quick:
            raise UserError("--quick is for the tiny world.", "With --model, lower --pairs, --held-out and --prompts.")
        if self.prompts > self.held_out:
            raise UserError("--prompts are taken from --held-out pairs, and there are fewer.", "Raise --held-out.")


RANGES = (
    Range(("pairs", "held_out", "prompts"), least=1, most=2**31 - 1),
    Range(("lora_rank",), least=0, most=8192),
    Range(("sft_learning_rate", "learning_rate"), above=0, most=1_000),
)
"""What numbers of a demonstration may be, beside those that all configurations share."""

SECTIONS = {
    "output": "flags",
    "model": "a model of your own",
    "columns": "a model of your own",
    "dtype": "a model of your own",
}

_OWN = tuple(
    one.name for one in fields(DemoConfig) if one.name not in ("output", "seed", "quick", "images", "model", "data")
)


def _default(name: str) -> object:
    return getattr(DemoConfig(), name)
