"""What a scoring may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenq.errors import UserError
from tokenq.options import ConditionOptions, ReaderOptions, RewardOptions, RowOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class ScoreConfig(ConditionOptions, ReaderOptions, RewardOptions, RowOptions):
    """Read a policy against its reference: which tokens the training rewarded, and where it sees the mistake."""

    reward_model: str | None = None
    """A sequence classifier that is read at every token, alone or beside a policy with the same tokens."""

    data: Sequence[str] = ()
    """Rows to score, in every form that tokenq train reads: pairs, responses, conversations, steps."""
    prompt: str | None = field(default=None, metadata={"text": True})
    """Prompt of one text to score, with --response."""
    response: str | None = field(default=None, metadata={"text": True})
    """Response to score."""
    max_length: int | None = None
    """Maximum number of tokens in prompt plus response; longer responses are cut and marked `"terminal": false`."""

    refiner: str | None = None
    """Images: the language model that wrote what was drawn: its words are read too. With --refiner-reference."""
    refiner_reference: str | None = None
    """Images: what the refiner is compared with."""
    image_beta: float | None = None
    """Images: KL temperature of denoising steps. Default: --beta."""
    noise_draws: int = 32
    """Images: noise levels at which a picture is read whose trajectory is not known."""

    output: str | None = None
    """File of traces: .jsonl or .parquet, one trace per response."""
    html: str | None = None
    """Page to look at them: one file, opens from disk."""
    figure: str | None = None
    """Picture of the first response: .svg, .png or .pdf."""
    png: str | None = None
    """Images: folder for the credit maps of every picture, a PNG a step and one of their sum."""
    overwrite: bool = False
    """Replace files that this command did not write."""
    levels: Sequence[str] = ("word", "sentence")
    """Levels of spans: word, sentence, line, paragraph, step, turn, regex:PATTERN."""
    top_k: int = 5
    """Alternatives kept at every token, under each model."""

    seed: int = 0
    """Seed of the sample that a weighted source gives."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        single = self.prompt is not None or self.response is not None
        if single and (self.prompt is None or self.response is None):
            raise UserError(
                "--prompt and --response belong together, and one of them is missing.", "Give both, or --data FILE."
            )
        if single == bool(self.data):
            raise UserError("There is nothing to score, or too much.", "Give --data, or --prompt and --response.")
        alone = self.policy is None and self.run is None
        if (self.policy is not None and self.run is not None) or (alone and self.reward_model is None):
            raise UserError("Give either --policy or --run.", "--run takes the models of a finished training run.")
        if self.reward_weights and self.reward_model is None:
            raise UserError("--reward-weights is given, and no --reward-model.", "Name the model that they belong to.")
        if self.output is not None and Path(self.output).suffix not in (".jsonl", ".parquet"):
            raise UserError(f"--output {self.output}: the form is not known.", "Name it .jsonl or .parquet.")

    def check_texts(self) -> None:
        """Refuse what has no meaning for texts.

        Raises:
            UserError: names the flags.
        """
        odd = {"--png": self.png, "--refiner": self.refiner, "--image-beta": self.image_beta}
        for flag in (flag for flag, value in odd.items() if value is not None):
            raise UserError(f"{flag} is for images, and the policy is no image model.", "Leave it out.")

    def check_pictures(self) -> None:
        """Refuse what has no meaning for images.

        Raises:
            UserError: names the flags.
        """
        if self.prompt is not None:
            hint = "Give rows with images, --data FILE, or the refiner of the run: --policy RUN/policy --reference LM."
            raise UserError("--prompt and --response are texts.", hint)
        self.check()
        odd = {"--reward-model": self.reward_model, "--figure": self.figure}
        for flag in (flag for flag, value in odd.items() if value is not None):
            raise UserError(f"{flag} does not go with an image model.", "Give --html PAGE, or --png FOLDER.")
        if self.output is not None and Path(self.output).suffix != ".jsonl":
            raise UserError(f"--output {self.output}: traces of pictures have another form.", "Name it .jsonl.")
        if (self.refiner is None) != (self.refiner_reference is None):
            raise UserError("--refiner and --refiner-reference belong together.", "Give both, or none.")

    def check_command(self) -> None:
        """Refuse what a command cannot do: as `check`, and many rows with nothing to come of them.

        Raises:
            UserError: names the flags.
        """
        self.check()
        if self.data and not any((self.output, self.html, self.figure, self.png)):
            raise UserError("--output is missing.", "Name a file for the traces: --output traces.jsonl.")


RANGES = (Range(("image_beta",), above=0, most=1_000_000), Range(("noise_draws",), least=1, most=100_000))

SECTIONS = {
    "policy": "models",
    "reward_model": "models",
    "data": "what to score",
    "columns": "what to score",
    "refiner": "what to score",
    "output": "what comes out",
    "dtype": "how",
    "tokens_per_batch": "how",
    "seed": "how",
}
