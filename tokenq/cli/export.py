"""`tokenq export`: a policy of a run, as a folder for others, and on the hub."""

from dataclasses import dataclass
from typing import Literal

from tokenq.ranges import Range, check_ranges

RANGES = (Range(("step",), least=1, most=2**63 - 1),)


@dataclass(frozen=True)
class ExportConfig:
    """Write the policy, or reward model, of a run or of a checkpoint as a folder for others, with a model card."""

    run: str
    """Folder of a training run, or of one of its checkpoints."""
    output: str
    """Folder to write."""

    step: int | None = None
    """Take the checkpoint of this step. Default: the end of the run."""
    best: bool = False
    """Take the checkpoint of the best evaluation: by the run's --keep-best, else by eval_loss."""

    merge: bool = False
    """Merge an adapter into its base: a whole model, which needs no peft."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto leaves them as they are, those of a merge as the base is stored."""
    push_to_hub: str | None = None
    """Upload the folder under this id of the hub, such as my-name/my-model."""
    trust_remote_code: bool = False
    """Run Python code that a base brings along. Only for models whose authors you trust."""
    overwrite: bool = False
    """Replace a folder that this command did not write."""

    def check(self) -> None:
        """Refuse a step that cannot be.

        Raises:
            UserError: names the flag.
        """
        check_ranges(self, RANGES)


SECTIONS: dict[str, str] = {"run": "what and where to", "step": "which", "merge": "in which form"}
"""Headings of the help page, each by the first field that stands under it."""

SPELT_ELSEWHERE: dict[str, str] = {"checkpoint": "step", "merge_and_unload": "merge", "hub_model_id": "push_to_hub"}
"""Other programs' names of a field."""


def run(config: ExportConfig) -> int:
    """Export what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.export import export
    from tokenq.terminal.progress import Progress

    config.check()
    with Progress(1) as progress:
        export(**vars(config), listener=progress)
    return 0
