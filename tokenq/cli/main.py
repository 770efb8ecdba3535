"""The `tokenq` command: a table of commands, one dataclass each, and what happens when one of them fails.

A `UserError` is printed without a traceback and exits with 2. Anything else is a defect and keeps its traceback.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import tokenq
from tokenq.cli import again
from tokenq.cli.cache import CacheConfig
from tokenq.cli.command import Command
from tokenq.cli.curation.table import CURATION
from tokenq.cli.eval import EVALUATIONS
from tokenq.cli.export import SECTIONS as EXPORT_SECTIONS
from tokenq.cli.export import SPELT_ELSEWHERE as EXPORT_SPELT_ELSEWHERE
from tokenq.cli.export import ExportConfig
from tokenq.cli.flags import flags_of, parse
from tokenq.cli.told import Told
from tokenq.cli.verify import VerifyConfig
from tokenq.comparison import config as compare
from tokenq.demo import config as demo
from tokenq.doctor import config as doctor
from tokenq.errors import Interrupted, UserError, fitting, of_the_machine, unknown_name
from tokenq.evaluation import sweep_config as sweep
from tokenq.jobs.drawing import config as draw
from tokenq.rollout import config as online
from tokenq.rollout.episodes import config as play
from tokenq.score import config as score
from tokenq.search import config as search
from tokenq.server import config as serve
from tokenq.terminal.plain_text import complain, fit_streams
from tokenq.training import config as train

_SIGPIPE = 141
"""Exit code of a command whose reader has gone (`tokenq score … | head -1`)."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0 where all is well, 1 where a check of `verify` fails, 2 for a user's mistake, 130 for an interruption, 141 where
    who read the output has gone, 143 where it was terminated.

    Args:
        words: the command line after `tokenq`; None takes the process's own.
    """
    fit_streams()
    try:
        code = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush to
        return _SIGPIPE
    return code


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"tokenq {tokenq.__version__}")
        return 0
    if words[0] == "eval" and (len(words) == 1 or words[1] in ("-h", "--help", "help")):
        print(_overview("eval "))
        return 0 if len(words) > 1 else 2
    name, flags = _named(words)
    prog = f"tokenq {name}"
    try:
        if name not in COMMANDS:
            prog = "tokenq"
            raise unknown_name("command", name, COMMANDS)
        command = COMMANDS[name]
        config = parse(
            command.config,
            flags,
            prog=prog,
            sections=command.sections,
            spelt_elsewhere=command.spelt_elsewhere,
            bare=command.bare,
            check=command.check,
        )
        return 0 if config is None else _do(command, config)
    except UserError as error:
        known = flags_of(COMMANDS[name].config) if name in COMMANDS else None
        complain(prog, error.message, fitting(error.hint, known))
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        trouble = of_the_machine(error)
        if trouble is None:
            raise
        complain(prog, trouble.message, trouble.hint)
    return 2


def _named(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return (command, its flags); an evaluation is called by two words."""
    if words[0] == "eval" and len(words) > 1 and not words[1].startswith("-"):
        return f"eval {words[1]}", words[2:]
    return words[0], words[1:]


def _do(command: Command, config: Any) -> int:
    try:
        with _terminable():
            return command.run(config)
    except Interrupted as stop:
        print(f"\n{stop.said} {command.again(config)}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print(f"\nInterrupted. {command.again(config)}", file=sys.stderr)
        return 128 + signal.SIGINT


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Have a polite request to end, as schedulers send it, end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(signum, "Terminated.")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _overview(family: str = "") -> str:
    """Return the commands that begin with a word, or all: what each does."""
    known = {name: command.summary for name, command in COMMANDS.items() if name.startswith(family)}
    width = max(map(len, known))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in known.items())
    usage, what = (f"{family}TASK", "tasks") if family else ("COMMAND", "commands")
    return (
        f"usage: tokenq {usage} [flags]\n\n{tokenq.__doc__}\n\n{what}:\n{rows}\n\n"
        f"tokenq {usage} --help lists its flags; tokenq --version prints the version."
    )


def _runs(module: str) -> Callable[[Any], int]:
    """Return the function that runs a command; its module is imported on the first call."""

    def run(config: Any) -> int:
        code: int = import_module(f"tokenq.cli.{module}").run(config)
        return code

    return run


def _check_train(config: train.TrainConfig) -> None:
    config.check()
    if config.loss != "dpo" or config.loss_options or config.beta is not None:
        from tokenq.core.losses import find_sum

        find_sum(config.loss, {**({} if config.beta is None else {"beta": config.beta}), **config.loss_options})


def _check_search(config: search.SearchConfig) -> None:
    config.check_command()
    if config.policy is not None:
        from tokenq.jobs.searcher import check_needs

        check_needs(config)


COMMANDS: dict[str, Command] = {
    "train": Command(
        train.TrainConfig,
        _runs("train"),
        again.train_again,
        "train a policy on demonstrations, preferences or rewards, or a reward model",
        train.SECTIONS,
        train.SPELT_ELSEWHERE,
        check=_check_train,
    ),
    "online": Command(
        online.OnlineConfig,
        Told("tokenq.jobs.rollout.online", "online", lambda config: config.logging_steps),
        again.online_again,
        "learn from its own responses in rounds: write, judge, pair, train",
        online.SECTIONS,
        online.SPELT_ELSEWHERE,
    ),
    "score": Command(
        score.ScoreConfig,
        _runs("score"),
        again.goes_on_from_output,
        "read a policy against its reference, token by token",
        score.SECTIONS,
        {"input": "data", "file": "data", "model": "policy", "ref": "reference"},
        check=score.ScoreConfig.check_command,
    ),
    "search": Command(
        search.SearchConfig,
        _runs("search"),
        again.goes_on_from_output,
        "write better answers: beams, best of n, votes, tree search, proxies",
        search.SECTIONS,
        search.SPELT_ELSEWHERE,
        check=_check_search,
    ),
    "play": Command(
        play.PlayConfig,
        Told("tokenq.jobs.playing.play", "play"),
        again.goes_on_from_output,
        "play episodes with an environment: success, cost, and the turn that lost it",
        play.SECTIONS,
        play.SPELT_ELSEWHERE,
    ),
    "draw": Command(
        draw.DrawConfig,
        Told("tokenq.jobs.drawing.draw", "draw"),
        again.goes_on,
        "draw pictures with an image model: at rest with seeds, trajectories and log-densities",
        draw.SECTIONS,
        draw.SPELT_ELSEWHERE,
    ),
    "serve": Command(
        serve.ServeConfig,
        _runs("serve"),
        again.nothing_written,
        "serve a pair: OpenAI's API with rewards, and a web app to look, branch and compare",
        serve.SECTIONS,
        serve.SPELT_ELSEWHERE,
    ),
    "sweep": Command(
        sweep.SweepConfig,
        _runs("sweep"),
        again.goes_on,
        "compare searches at equal cost: quality against tokens",
        sweep.SECTIONS,
        {"data": "prompts", "model": "policy", "ref": "reference", "methods": "settings"},
    ),
    **CURATION,
    **EVALUATIONS,
    **CURATION,
    "doctor": Command(
        doctor.DoctorConfig,
        _runs("doctor"),
        again.nothing_written,
        "examine a run: is this curve normal, and what to change",
        doctor.SECTIONS,
        doctor.SPELT_ELSEWHERE,
        bare="run",
    ),
    "compare": Command(
        compare.CompareConfig,
        _runs("compare"),
        again.nothing_written,
        "set runs on the same data side by side: accuracy, margin, KL, drift, cost",
        compare.SECTIONS,
        compare.SPELT_ELSEWHERE,
        bare="runs",
    ),
    "export": Command(
        ExportConfig,
        _runs("export"),
        again.nothing_written,
        "write a policy of a run as a folder for others, with a model card, or put it on the hub",
        EXPORT_SECTIONS,
        EXPORT_SPELT_ELSEWHERE,
        bare="run",
    ),
    "demo": Command(
        demo.DemoConfig,
        _runs("demo"),
        again.demo_again,
        "train, read and search a tiny model in two to five minutes, offline, on a CPU: three figures",
        demo.SECTIONS,
        {"model_name_or_path": "model", "dataset_name": "data", "output_dir": "output"},
    ),
    "verify": Command(
        VerifyConfig,
        _runs("verify"),
        again.nothing_written,
        "check the theory in small worlds with known answers, in half a minute to a minute",
        {"worlds": "flags"},
        {},
    ),
    "cache": Command(
        CacheConfig,
        _runs("cache"),
        again.goes_on,
        "list what is kept between runs, and delete it",
        {"clear": "flags"},
        {"delete": "clear", "age": "older_than", "days": "older_than"},
    ),
}
