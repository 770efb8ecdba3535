"""The demonstration: what "a language model is a Q-function" means, within minutes, on this machine.

Without a model it runs in a world of its own, from nothing: no network, no data file, no accelerator. With --model and
--data the same stages run on these. With --images the world is one of pictures.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tokenq
from tokenq.demo.config import DemoConfig
from tokenq.demo.processes import side_by_side
from tokenq.demo.stages import Stages
from tokenq.demo.steps import DemoReport
from tokenq.errors import UserError
from tokenq.files import plain, read_json, write_json
from tokenq.leftovers import clear_leftovers
from tokenq.locks import hold_folder
from tokenq.records.schema import SCHEMA
from tokenq.redaction import redact
from tokenq.report.figure_page import write_figures
from tokenq.rundir import provenance
from tokenq.terminal.console import messages
from tokenq.threads import one_thread


@dataclass(frozen=True)
class Demonstrated(DemoReport):
    """A demonstration that is over.

    Attributes:
        page: its report.
        seconds: that it took.
    """

    page: Path
    seconds: float


def demonstrate(config: DemoConfig) -> Demonstrated:
    """Run the demonstration that `config` asks for, and write its report.

    Raises:
        UserError: the output folder is in use, or a flag without effect was given.
    """
    config.check()
    with hold_folder(Path(config.output)):
        _begin(Path(config.output), config)
        return _run(config)


def _begin(output: Path, config: DemoConfig) -> None:
    """Mark the folder as a demonstration's, or go on with one of the same settings that was stopped.

    Raises:
        UserError: something else is in the folder, or a demonstration with other settings.
    """
    mark, begun = output / "demo.json", any(output.glob("*/config.yaml"))
    wanted = {"version": tokenq.__version__, **redact(plain(asdict(config)))}
    hint = f"Remove it (rm -r {output}), or choose another --output."
    if not mark.exists() and any(not entry.name.startswith(".lock") for entry in output.iterdir()):
        raise UserError(f"{output} is not empty.", hint)
    if not begun:
        write_json(mark, {"schema": SCHEMA, "made_by": "tokenq demo", "config": wanted})
        return
    began = read_json(mark)
    began = began.get("config") if isinstance(began, dict) else None
    if not isinstance(began, dict):
        raise UserError(f"{mark} was not written by tokenq demo.", hint)
    other = [name for name, value in wanted.items() if name != "output" and began.get(name) != value]
    changed = [f"{name} was {began.get(name)!r}, now {wanted[name]!r}" for name in other]
    if changed:
        raise UserError(
            f"The demonstration in {output} began with other settings: {'; '.join(changed)}.",
            f"Give the same ones to go on with it, or begin anew: {hint[0].lower()}{hint[1:]}",
        )
    clear_leftovers(output)
    messages().print(f"going on with the demonstration in {output}: what is done there is not done again")


def _run(config: DemoConfig) -> Demonstrated:
    output, stages = Path(config.output), Stages()
    shown = _shown(config, stages)
    settings = asdict(config)
    if config.images:
        del settings["beta"]  # of a model of one's own: each system here has strengths of its own
    record = provenance(settings, config.seed, {}) | {"seconds": stages.seconds}
    facts = {"seed": str(config.seed)} | {name: f"{seconds:.0f} s" for name, seconds in stages.seconds.items()}
    page = write_figures(output / "report", _title(config), shown.sections, facts, shown.summary, record)
    return Demonstrated(shown.sections, shown.summary, page, stages.total)


def _title(config: DemoConfig) -> str:
    if config.images:
        return "Words and pictures as one decision process"
    return "From r to Q* on a laptop" if config.model is None else f"From r to Q*: {config.model}"


def _shown(config: DemoConfig, stages: Stages) -> DemoReport:
    if config.model is not None:
        from tokenq.demo.own_model import run_own

        return run_own(config, stages)
    with one_thread():
        return _shown_world(config, stages)


def _shown_world(config: DemoConfig, stages: Stages) -> DemoReport:
    if config.images:
        from tokenq.demo.pictures.demonstration import run_pictures

        return run_pictures(Path(config.output), config.seed, quick=config.quick, stages=stages)
    from tokenq.demo.posts import run_world

    with side_by_side() as together:
        return run_world(Path(config.output), config.seed, quick=config.quick, stages=stages, together=together)
