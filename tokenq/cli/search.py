"""`tokenq search`: write answers to prompts with a trained policy, by the search that was asked for."""

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenq
from tokenq.cli.outputs import claims
from tokenq.records import SCHEMA
from tokenq.search.config import SearchConfig

if TYPE_CHECKING:
    from rich.console import Console

    from tokenq.data.prompts import Prompt
    from tokenq.decoding import Searcher
    from tokenq.results import SearchResult

INTERRUPTED = 130


@claims("tokenq search")
def run(config: SearchConfig) -> int:
    """Answer the prompts of `config`, and return 0; 130 when that was interrupted.

    Raises:
        UserError: for anything that the user can mend.
    """
    from accelerate import PartialState

    from tokenq.cli.prompt_rows import read_prompts, usable
    from tokenq.decoding import load_searcher
    from tokenq.results import read_results
    from tokenq.terminal.console import messages

    config.check()
    state = PartialState(cpu=config.device == "cpu")
    say = messages(quiet=not state.is_main_process)
    loaded = read_prompts(config, tuple(config.prompts)) if config.prompts else None
    searcher = load_searcher(config, say=lambda text: say.print(f"warning: {text}"))
    prompts = searcher.prompts([config.prompt or ""]) if loaded is None else usable(loaded, searcher, say)
    with interruptible(say) as interrupted:
        if config.output is None:
            results = list(searcher.results(prompts, interrupted=interrupted))
        else:
            search_to_file(Path(config.output), searcher, prompts, interrupted, say)
            results = list(read_results(Path(config.output))) if state.is_main_process and _shown(config) else []
    if state.is_main_process:
        _show(config, results, searcher, say)
    return INTERRUPTED if interrupted() else 0


@contextlib.contextmanager
def interruptible(say: "Console") -> Iterator[Callable[[], bool]]:
    """Give a function that is True once the user has pressed Ctrl-C; the second time ends the command at once."""
    asked: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say.print("stopping with what there is; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def search_to_file(
    path: Path,
    searcher: "Searcher",
    prompts: "list[Prompt]",
    interrupted: Callable[[], bool],
    say: "Console",
    made_by: str = "tokenq search",
) -> None:
    """Search, and write a line a prompt to `path`, with a record of where they come from beside it.

    Lines are kept as they come; a file that holds the whole of the same job is left as it is. What was interrupted or
    killed goes on where it stopped, beside the same prompts as before, so that it finds the same to the last bit; a
    search that was cut short by the interruption is done again then.
    """
    from accelerate import PartialState
    from rich.progress import Progress

    from tokenq.cli.outputs import is_made, recorder
    from tokenq.cli.parts import Parts
    from tokenq.files import plain, write_json_lines
    from tokenq.rundir import provenance

    state, key = PartialState(), _key(searcher, prompts)
    parts = Parts(path, key)
    if is_made(path, key):
        say.print(f"the answers to {len(prompts)} prompts are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            parts.remove()
        return
    own = prompts[parts.mine]
    done = parts.begin(lambda line: line.get("stopped") != "interrupted")
    if done and state.is_main_process:
        say.print(f"going on after {done} of {len(own)} prompts that were searched before")
    show = state.is_main_process and say.is_terminal
    with Progress(console=say, transient=True, disable=not show) as bars:
        task = bars.add_task("searching", total=None)
        for result in searcher.results(
            own, lambda part, whole: bars.update(task, completed=part, total=whole), interrupted, done
        ):
            parts.append(result.to_dict())
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    config, count = asdict(searcher.config), sum(1 for _ in parts.in_order())
    sources = {**searcher.identities, "prompts": {"sources": plain(config["prompts"]), "sha256": _digest(prompts)}}
    record = {**provenance(config, searcher.config.seed, sources), "made_by": made_by, "records": count}
    record |= {} if interrupted() else {"key": key}
    write_json_lines(path, parts.in_order(), recorder(path, lambda: record))
    if interrupted():
        say.print(f"stopped: {count} of {len(prompts)} prompts are in {path}; the same command goes on from there")
        return
    parts.remove()
    say.print(f"done: the answers to {count} prompts are in {path}")


def _key(searcher: "Searcher", prompts: "list[Prompt]") -> str:
    """Return a key of all that the results depend on."""
    idle = (
        "output",
        "html",
        "overwrite",
        "batch_size",
        "tokens_per_batch",
        "device",
        "prompts",
        "columns",
        "run",
        "policy",
    )
    config = {name: value for name, value in asdict(searcher.config).items() if name not in idle}
    made_of = [tokenq.__version__, SCHEMA, *sorted(config.items(), key=str)]
    weights = [identity["weights"] for identity in searcher.identities.values()]
    return hashlib.sha256(repr((made_of, weights, _digest(prompts))).encode()).hexdigest()


def _digest(prompts: "list[Prompt]") -> str:
    said = "\n".join(f"{prompt.id}:{prompt.text!r}" for prompt in prompts)
    return hashlib.sha256(said.encode()).hexdigest()


def _shown(config: SearchConfig) -> bool:
    return config.prompt is not None or config.html is not None


def _show(config: SearchConfig, results: "list[SearchResult]", searcher: "Searcher", say: "Console") -> None:
    """Show the results wherever the configuration asks for them."""
    from tokenq.report.search_page import write_search_page
    from tokenq.report.terminal import candidates
    from tokenq.rundir import provenance
    from tokenq.terminal.console import screen

    if config.prompt is not None:
        screen(None).print(*map(candidates, results))
    if config.html is not None:
        title = f"{config.method} with {config.policy or config.run}"
        record = provenance(asdict(config), config.seed, searcher.identities) | {"beta": searcher.plan.beta}
        write_search_page(Path(config.html), results, title=title, record=record)
        say.print(f"page: {config.html}")
