"""`tokenq demo`: what "a language model is a Q-function" means, within minutes, on this machine.

Without a model it runs in a world of its own, from nothing: no network, no data file, no accelerator. With --model and
--data the same stages run on these.
"""

from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from tokenq.cli.console import screen
from tokenq.cli.demo_config import DemoConfig
from tokenq.cli.demo_parts import Shown
from tokenq.cli.stages import Stages
from tokenq.errors import UserError
from tokenq.report.figure_page import write_figures
from tokenq.report.outcome import brief
from tokenq.rundir import provenance


def run(config: DemoConfig) -> None:
    """Run the demonstration that `config` asks for, write its report, and print what it showed.

    Raises:
        UserError: the output folder is in use, or a flag without effect was given.
    """
    config.check()
    output, console, stages = Path(config.output), screen(), Stages()
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty.", f"Remove it (rm -r {output}), or choose another --output.")
    shown = _shown(config, stages)
    record = provenance(asdict(config), config.seed, {}) | {"seconds": stages.seconds}
    facts = {"seed": str(config.seed)} | {name: f"{seconds:.0f} s" for name, seconds in stages.seconds.items()}
    page = write_figures(output / "report", "From r to Q* on a laptop", shown.sections, facts, shown.summary, record)
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

    return run_world(Path(config.output), config.seed, quick=config.quick, stages=stages)
