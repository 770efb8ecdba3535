"""`tokenq demo`: what "a language model is a Q-function" means, within minutes, on this machine.

Without a model it runs in a world of its own, from nothing: no network, no data file, no accelerator. With --model and
--data the same stages run on these.
"""

from dataclasses import asdict
from pathlib import Path

from rich.text import Text

import tokenq
from tokenq.cli.console import messages, screen
from tokenq.cli.demo_config import DemoConfig
from tokenq.cli.demo_parts import Shown
from tokenq.cli.side_by_side import side_by_side
from tokenq.cli.stages import Stages
from tokenq.errors import UserError
from tokenq.files import plain, read_json, write_json
from tokenq.leftovers import clear_leftovers
from tokenq.locks import hold_folder
from tokenq.records import SCHEMA
from tokenq.redaction import redact
from tokenq.report.figure_page import write_figures
from tokenq.report.outcome import brief
from tokenq.rundir import provenance


def run(config: DemoConfig) -> None:
    """Run the demonstration that `config` asks for, write its report, and print what it showed.

    Raises:
        UserError: the output folder is in use, or a flag without effect was given.
    """
    config.check()
    with hold_folder(Path(config.output)):
        _begin(Path(config.output), config)
        _run(config)


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


def _run(config: DemoConfig) -> None:
    output, console, stages = Path(config.output), screen(), Stages()
    shown = _shown(config, stages)
    record = provenance(asdict(config), config.seed, {}) | {"seconds": stages.seconds}
    facts = {"seed": str(config.seed)} | {name: f"{seconds:.0f} s" for name, seconds in stages.seconds.items()}
    title = "From r to Q* on a laptop" if config.model is None else f"From r to Q*: {config.model}"
    page = write_figures(output / "report", title, shown.sections, facts, shown.summary, record)
    for summary in shown.summary:
        console.print(brief(summary))
    for section in shown.sections:
        first = section.reading.splitlines()[0]
        console.print(Text.assemble((section.title, "bold"), f" {section.verdict.capitalize()}. {first}"))
    console.print(f"{stages.total:.0f} s in all. Intervals, figures and the rest: {page}")


def _shown(config: DemoConfig, stages: Stages) -> Shown:
    if config.model is not None:
        from tokenq.cli.demo_own import run_own

        return run_own(config, stages)
    from tokenq.cli.demo_world import run_world

    with side_by_side() as together:
        return run_world(Path(config.output), config.seed, quick=config.quick, stages=stages, together=together)
