"""Episodes with an environment: in memory, or into a file that a kill does not lose."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os.path import isfile
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

import tokenq
from tokenq.envs.table import find_environment
from tokenq.errors import UserError
from tokenq.files import digest_of, json_line, write_lines
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, pair_given
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.playing.models import PlayModels, open_models, player_of
from tokenq.jobs.playing.reading import with_implicit, worth_of
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.models.stamps import guarded
from tokenq.records.episodes import Episode
from tokenq.records.schema import SCHEMA
from tokenq.report.episodes.played import Played
from tokenq.rollout.episodes.config import PlayConfig
from tokenq.rollout.episodes.game import ActionSearch, Game, Player, Rules, Spent, Start
from tokenq.rollout.episodes.player import batches, lockstep
from tokenq.rundir import provenance
from tokenq.search.settings import Sampling, part


def play(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    policy: Name | Run | InMemory | None = None,
    output: Name | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    reference: Name | InMemory | None = None,
    run: Name | Run | None = None,
    base: str | None = None,
    beta: float | None = None,
    environment: str | None = None,
    environment_options: Mapping[str, str] = {},
    max_turns: int | None = None,
    step_timeout: float = 60.0,
    when_full: Literal["end", "cut"] = "end",
    episodes: int = 8,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    eos: Sequence[str] = (),
    search: Literal["none", "best_of_n", "tree"] = "none",
    search_value: Literal["implicit", "return", "exact"] | None = None,
    candidates: int = 4,
    simulations: int = 16,
    writer: str = "local",
    writer_model: str | None = None,
    html: Name | None = None,
    overwrite: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    tokens_per_batch: int = 4096,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    trust_remote_code: bool = False,
) -> Played:
    """Play episodes with an environment, and return them.

    The settings are those of `tokenq play` (`tokenq play --help` has a line each). With an output, the same call goes
    on where a killed one stopped.

    Args:
        policy: a folder, a hub id, a loaded model of `transformers`, (model, tokenizer), or a run.
        output: file of episodes; they stay in memory without one.
        tokenizer: of a loaded model.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    given, in_memory = pair_given(locals(), ("listener",))
    with untouched():
        return played(PlayConfig(**given), listener, in_memory)


@dataclass(frozen=True)
class Table:
    """A game with who plays it, ready to begin.

    Attributes:
        config: what was asked for.
        game: what is played.
        player: who plays.
        rules: how.
        models: the models, which read what was played.
        spent: what it has cost this process.
    """

    config: PlayConfig
    game: Game
    player: Player
    rules: Rules
    models: PlayModels
    spent: Spent

    @property
    def starts(self) -> list[Start]:
        """How the episodes begin."""
        return [Start(self.config.seed + number) for number in range(self.config.episodes)]

    def episodes(self, starts: Sequence[Start], tell: Callable[[int, int], None]) -> list[Episode]:
        """Return episodes that are played side by side, read against the reference where there is one."""
        found = lockstep(self.game, starts, self.player, self.rules, self.spent, tell)
        if self.models.pair is not None:
            config = self.config
            found = with_implicit(found, self.models.pair.read_logps, self.models.beta, config.tokens_per_batch)
        return list(guarded(found, self.models.files))

    def key(self) -> str:
        """Return a key of all that the episodes depend on."""
        config = {name: value for name, value in asdict(self.config).items() if name not in _IDLE}
        named = [self.game.name, *map(str, self.game.options.values())]  # FILE.py:CLASS, and options that are files
        code = [digest_of(Path(one)) for name in named for one in (name, name.rpartition(":")[0]) if isfile(one)]
        weights = [identity["weights"] for identity in self.models.identities.values()]
        made_of = [tokenq.__version__, SCHEMA, sorted(config.items(), key=str), code, weights, self.models.beta]
        return hashlib.sha256(repr([*made_of, self.player.writer.engine]).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return where the episodes come from."""
        record = provenance(asdict(self.config), self.config.seed, self.models.identities)
        return record if self.models.pair is None else record | {"beta": self.models.beta}


_IDLE = (
    "output",
    "html",
    "overwrite",
    "batch_size",
    "tokens_per_batch",
    "device",
    "run",
    "policy",
    "reference",
    "beta",
    "writer",
    "writer_model",
)
"""Settings that episodes do not depend on, or that stand in the key by what they hold."""


def played(config: PlayConfig, listener: Listener, in_memory: Mapping[str, Loaded] = {}) -> Played:
    """Play what `config` says, write what it asks for, and return the episodes.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        in_memory: models by their role, instead of files of that name.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with claimed("tokenq play", files, overwrite=config.overwrite):
        first = PartialState(cpu=config.device == "cpu").is_main_process
        listener = listener if first else SILENCE
        table = table_of(config, listener, in_memory)
        source: Path | list[Episode]
        if config.output is None:
            groups = batches(table.starts, config.batch_size)
            source = [one for group in groups for one in table.episodes(group, lambda done, whole: None)]
        else:
            source = Path(config.output)
            play_to_file(source, table, listener)
        title = f"{config.environment} played by {config.policy or config.run}"
        found = Played(source, title, table.record())
        if first:
            _tell(found, table, listener)
        return found


def table_of(config: PlayConfig, listener: Listener, in_memory: Mapping[str, Loaded] = {}) -> Table:
    """Return the game and the models of a configuration, ready to begin.

    Raises:
        UserError: there is no such environment, a model is missing, or nobody answers at the writer's address.
    """
    name, options = str(config.environment), config.environment_options
    row = find_environment(name)
    game = Game(name, options, row.make(options), row.instructions, row.tools(options))
    tokens = config.max_new_tokens or row.max_new_tokens
    models = open_models(config, tokens, listener, in_memory)
    player, context = player_of(config, models, game, tokens, listener)
    row.prepare(options, range(config.seed, config.seed + config.episodes))
    if models.pair is not None:
        player = replace(player, worth=worth_of(models.pair.read_logps, models.beta, config.tokens_per_batch))
    elif config.search_value == "implicit":
        raise UserError(
            "--search-value implicit needs a reference.", "Give --reference, or take --search-value return."
        )
    turns, timeout = config.max_turns or row.max_turns, config.step_timeout
    sampling = part(Sampling, config)
    value = config.search_value or ("return" if models.pair is None else "implicit")
    search = ActionSearch(config.search, value, config.candidates, config.simulations)
    rules = Rules(sampling, config.seed, turns, tokens, context, config.when_full, timeout, config.batch_size)
    rules = rules if config.search == "none" else replace(rules, search=search)
    return Table(config, game, player, rules, models, Spent())


def play_to_file(path: Path, table: Table, listener: Listener) -> None:
    """Play, and write a line an episode to `path`, with a record of where they come from beside it.

    Episodes that are played side by side are kept when the last of them is over; a file that holds the whole of the
    same job is left as it is. What was killed goes on with the next of them: the same to the last bit, in any number of
    processes.
    """
    state, key, groups = PartialState(), table.key(), batches(table.starts, table.config.batch_size)
    parts = Parts(path, f"{key} {table.config.batch_size}")
    if is_made(path, key):
        listener.say(f"the {len(table.starts)} episodes are in {path} already")
    else:
        own = groups[parts.mine]
        done = parts.begin()
        whole, before = sum(map(len, own)), sum(map(len, own[:done]))
        if done:
            listener.say(f"going on after {before} of {whole} episodes that were played before")
        if len(groups) < state.num_processes:
            listener.say(f"{state.num_processes} processes share episodes in {len(groups)}: lower --batch-size")
        for group in own[done:]:

            def tell(part: int, _: int, before: int = before) -> None:
                listener(Event("playing", before + part, whole))

            parts.append(b"".join(json_line(one.to_dict()) for one in table.episodes(group, tell)))
            before += len(group)
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    if not is_made(path, key):
        record = {**table.record(), "made_by": "tokenq play", "records": len(table.starts), "key": key}
        write_lines(path, parts.in_order(), recorder(path, lambda: record))
    parts.remove()


def _tell(found: Played, table: Table, listener: Listener) -> None:
    """Say what the episodes come to, what they cost, and where they lie."""
    for line in found.numbers.lines():
        listener.say(line)
    spent, config = table.spent, table.config
    if spent.seconds:
        listener.say(
            f"cost: {spent.written:,} tokens written in {spent.seconds:.1f} s, {spent.written / spent.seconds:,.0f} "
            f"tokens/s; the environment took {spent.acting / spent.seconds:.1%} of that"
        )
    if config.html is not None:
        listener.say(f"page: {found.html(config.html)}")
    if config.output is not None:
        listener.say(f"done: {config.episodes} episodes are in {config.output}")
