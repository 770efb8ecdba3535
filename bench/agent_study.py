"""A small model learns to act: `python -m bench.agent_study --output FOLDER --games textworld --seeds 0 1 2`.

TextWorld: eight generated games to learn in, four that nothing learns from. Or a game of TextArena: Nim against a
script that takes one of the first pile, TicTacToe against any possible move. A model of 0.7 million weights first
learns from careless play, then from its own episodes: pairs by return in one round (trajectory DPO) or in two, policy
gradients with one advantage a turn. All learn from the same number of episodes, and are judged by playing again. What
is done already is not done again.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tokenq
from bench import nim
from bench.dro_study import shown
from tokenq.demo.tokenizer import SPECIALS, word_tokenizer
from tokenq.envs.environment import Environment, actions_of, solution_of
from tokenq.envs.table import find_environment
from tokenq.envs.world import Values, World, best_values
from tokenq.files import JsonLines, write_json_lines
from tokenq.jobs.rollout.online import online
from tokenq.records.episodes import Episode, read_episodes
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import difference_interval, mean_interval
from tokenq.terminal.progress import Progress

DEMONSTRATIONS = 1200
"""Episodes of careless play."""

CARE = 0.5
"""How often careless play of TextWorld takes a command that is best, and else any: it wins two games in five."""

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}\n{% elif m.role == 'system' %}{{ m.content }}\n"
    "{% else %}{{ m.content }}\n>{% endif %}{% endfor %}"
)

SAMPLES = 8
"""Episodes that begin alike."""

JUDGED = 192
"""Episodes that each policy is judged by, in the games that it learnt in and in others."""


class Kind(NamedTuple):
    """Games of a kind.

    Attributes:
        environment: its name.
        options: of the games to learn in.
        unseen: of others.
        turns: most actions of an episode.
        careless: (environment, what it said, actions so far, dice) → an action of careless play.
        initializer: spread of the model's first weights; wide ones copy from a list of moves sooner.
        epochs: passes over the careless play.
        episodes: those of its own that every way learns from.
        rounds: of policy gradients.
        rate: their learning rate.
    """

    environment: str
    options: Mapping[str, str]
    unseen: Mapping[str, str]
    turns: int
    careless: Callable[[Environment, str, int, random.Random], str]
    initializer: float = 0.05
    epochs: int = 2
    episodes: int = 576
    rounds: int = 6
    rate: float = 4e-4


def careless_command(environment: Environment, said: str, taken: int, draw: random.Random) -> str:
    """Return a best command with probability `CARE`, else any that is possible."""
    solution = solution_of(environment)
    assert solution is not None  # all states of these games are listed
    commands = solution.world.actions[solution.state]
    q_values = values_of(solution.world).q_values[taken, solution.state, : len(commands)]
    best = [command for command, q in zip(commands, q_values, strict=True) if q == q_values.max()]
    return draw.choice(best if draw.random() < CARE else list(commands))


def any_move(environment: Environment, said: str, taken: int, draw: random.Random) -> str:
    """Return any of the moves that a game lists."""
    return draw.choice(actions_of(environment) or ("",))


def any_number(environment: Environment, said: str, taken: int, draw: random.Random) -> str:
    """Return any possible move at Nim."""
    return draw.choice(nim.moves(said))


@cache
def values_of(world: World) -> Values:
    """Return what is best in every state of a game, by how many commands were taken."""
    return best_values(world, KINDS["textworld"].turns)


_SIZES = {"rooms": "2", "objects": "3", "quest_length": "2"}
_BOARD = {"game": "TicTacToe-v0", "opponent": "random", "reward": "success"}
_PILES = {"game": "Nim-v0", "opponent": f"{nim.__file__}:first_move", "reward": "success"}

KINDS = {
    "textworld": Kind(
        "textworld",
        _SIZES | {"game_seed": "1", "games": "8"},
        _SIZES | {"game_seed": "101", "games": "4"},
        6,
        careless_command,
    ),
    "nim": Kind("textarena", _PILES, _PILES, 7, any_number, 0.1, epochs=8, episodes=1536, rounds=16, rate=1e-3),
    "tictactoe": Kind("textarena", _BOARD, _BOARD, 5, any_move, initializer=0.1),
}


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--games", choices=KINDS, default="textworld", help="what is played")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of what is learnt from episodes")
    asked = parser.parse_args()
    folder, kind = asked.output / asked.games, KINDS[asked.games]
    sft = careful_of(folder, kind)
    policies: dict[str, list[Path]] = {"SFT": [sft for _ in asked.seeds]}
    written: dict[str, list[float]] = {}
    for seed in asked.seeds:
        for name, settings in ways(kind).items():
            run = learnt(folder, name, kind, sft, seed, settings)
            policies.setdefault(name, []).append(run.policy)
            lines = JsonLines(run.metrics).read()
            written.setdefault(name, []).append(sum(one.get("round/written_tokens", 0) for one in lines))
    print(table(folder, kind, policies, written, asked.seeds), flush=True)


PAIRS: dict[str, Any] = {"pairs": "all", "learning_rate": 3e-4, "batch_size": 32, "beta": 0.1}

GRADIENT: dict[str, Any] = {"credit_span": "turn", "batch_size": 32, "beta": 0.03}


def ways(kind: Kind) -> dict[str, dict[str, Any]]:
    """Return the settings of every way to learn from episodes."""
    return {
        "trajectory DPO": {"method": "dpo", "rounds": 1, **PAIRS},
        "two rounds of DPO": {"method": "dpo", "rounds": 2, **PAIRS},
        "a gradient by turns": {"method": "rloo", "rounds": kind.rounds, "learning_rate": kind.rate, **GRADIENT},
    }


def learnt(folder: Path, name: str, kind: Kind, sft: Path, seed: int, settings: Mapping[str, Any]) -> RunDir:
    """Return a run that learnt from its own episodes."""
    run = RunDir(folder / f"{name}-{seed}".replace(" ", "-"))
    groups = kind.episodes // settings["rounds"] // SAMPLES
    asked = {
        "environment": kind.environment,
        "environment_options": kind.options,
        "environment_seeds": kind.episodes // SAMPLES,
        "samples": SAMPLES,
        "prompts_per_round": groups,
        "max_turns": kind.turns,
        "schedule": "constant_with_warmup",
        "warmup_steps": 5,
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
        "keep_checkpoints": 0,
    }
    if not run.policy.exists():
        with Progress(100) as progress:
            online(str(sft), [], run.path, listener=progress, resume=run.path.exists(), **asked | settings)
    return run


def played(folder: Path, name: str, kind: Kind, policy: Path, options: Mapping[str, str]) -> list[Episode]:
    """Return episodes of a policy, as many of every game."""
    path = folder / "played" / f"{name}.jsonl".replace(" ", "-")
    path.parent.mkdir(exist_ok=True, parents=True)
    tokenq.play(
        str(policy),
        path,
        environment=kind.environment,
        environment_options=options,
        episodes=JUDGED,
        max_turns=kind.turns,
        seed=1000,
        batch_size=96,
        device="cpu",
        dtype="float32",
    )
    return list(read_episodes(path))


def table(
    folder: Path, kind: Kind, policies: Mapping[str, list[Path]], written: Mapping[str, list[float]], seeds: list[int]
) -> str:
    """Return success in the games that were learnt in, and in others, with intervals over episodes' beginnings."""
    games = {"learnt": kind.options, "unseen": kind.unseen}
    found = {
        (name, which): [
            [float(bool(one.success)) for one in played(folder, f"{name}-{seed}-{which}", kind, policy, options)]
            for seed, policy in zip(seeds, some, strict=True)
        ]
        for name, some in policies.items()
        for which, options in games.items()
    }
    lines = [
        "| way | success | − SFT | by seed | unseen games | − SFT | tokens written |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups = [number for _ in seeds for number in range(JUDGED)]
    for name in policies:
        cells = [name]
        for which in games:
            values, others = ([value for run in found[one, which] for value in run] for one in (name, "SFT"))
            apart = "" if name == "SFT" else shown(difference_interval(values, others, groups))
            cells += [shown(mean_interval(values, groups)), apart]
            if which == "learnt":
                cells.append(" ".join(f"{sum(one) / len(one):.2f}" for one in found[name, which]))
        tokens = written.get(name, [])
        cells.append(f"{sum(tokens) / len(tokens):,.0f}" if tokens else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def careful_of(folder: Path, kind: Kind) -> Path:
    """Return the policy that learnt from careless play."""
    run = RunDir(folder / "sft")
    if not run.policy.exists():
        rows = list(careless(kind, kind.options, DEMONSTRATIONS))
        others = list(careless(kind, kind.unseen, 60))  # so that no word is unknown
        texts = [message["content"] for row in (*rows, *others) for message in row["messages"]]
        model, tokenizer = small_model([*texts, *(f" {text}" for text in texts), "\n>"], kind.initializer)
        data = folder / "demonstrations.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        write_json_lines(data, rows)
        model.save_pretrained(folder / "start")
        tokenizer.save_pretrained(folder / "start")
        with Progress(100) as progress:
            tokenq.train(
                str(folder / "start"),
                str(data),
                run.path,
                loss="sft",
                epochs=kind.epochs,
                batch_size=4,
                learning_rate=2e-3,
                schedule="cosine",
                warmup_ratio=0.05,
                max_length=1024,
                keep_checkpoints=0,
                device="cpu",
                listener=progress,
            )
    return run.policy


def small_model(texts: list[str], initializer: float) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return an untrained model, and a tokenizer of the words of some texts."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(texts, SPECIALS),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=initializer,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def careless(kind: Kind, options: Mapping[str, str], count: int) -> Iterator[dict[str, Any]]:
    """Yield conversations of careless play, all games in turn."""
    row = find_environment(kind.environment)
    environment = row.make(options)()
    for seed in range(count):
        yield {"messages": [{"role": "system", "content": row.instructions}, *episode(kind, environment, seed)]}
    environment.close()


def episode(kind: Kind, environment: Environment, seed: int) -> Iterator[dict[str, str]]:
    """Yield the messages of an episode of careless play."""
    draw, said = random.Random(f"careless {seed}"), environment.reset(seed)
    for taken in range(kind.turns):
        yield {"role": "user", "content": str(said)}
        action = kind.careless(environment, str(said), taken, draw)
        yield {"role": "assistant", "content": action}
        step = environment.step(action)
        said = step.observation
        if step.terminated:
            return


if __name__ == "__main__":
    main()
