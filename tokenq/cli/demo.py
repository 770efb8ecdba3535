"""`tokenq demo`: what "a language model is a Q-function" means, within minutes, on this machine."""

import gc

from tokenq.demo.config import DemoConfig


def run(config: DemoConfig) -> int:
    """Run the demonstration that `config` asks for, print what it showed, and return 0.

    Raises:
        UserError: the output folder is in use, or a flag without effect was given.
    """
    gc.set_threshold(20_000, 20, 20)  # searches make millions of objects, and hardly any garbage that only rounds find

    from rich.text import Text

    from tokenq.demo.demonstration import demonstrate
    from tokenq.report.outcome import brief
    from tokenq.terminal.console import screen

    done, console = demonstrate(config), screen()
    for summary in done.summary:
        console.print(brief(summary))
    for section in done.sections:
        first = section.reading.splitlines()[0]
        console.print(Text.assemble((section.title, "bold"), f" {section.verdict.capitalize()}. {first}"))
    console.print(f"{done.seconds:.0f} s in all. Intervals, figures and the rest: {done.page}")
    return 0
