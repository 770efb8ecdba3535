"""All turns of a dialogue learnt, or the last alone.

`python -m bench.dialogue_study --data hh_harmless.jsonl.gz --output runs/dialogue --seeds 0 1 2`

A model of at most a million weights, made here, learns one-turn dialogues first. Then it goes on with dialogues of
several turns, each of two ways from the same weights: every turn of the assistant is learnt, or the last one alone
(the others have weight 0). Both see the same rows, in the same order, for as many updates. Held-out dialogues say what
a token of last turns and of earlier ones costs, with intervals over dialogues. What is done already is not done again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tokenq
from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import read_rows
from tokenq.data.turns import transcript_turns
from tokenq.files import JsonLines, write_json_lines
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import Estimate, difference_interval, mean_interval

HELD_OUT = 200
"""Dialogues of several turns that nothing is learnt from."""

TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<pad>", "<|im_start|>", "<|im_end|>")

SETTINGS: dict[str, Any] = {"loss": "sft", "batch_size": 16, "max_length": 512, "warmup_ratio": 0.05, "device": "cpu"}
BASE = {"learning_rate": 3e-3, "epochs": 3.0, "schedule": "cosine"}
ARMS = {"learning_rate": 1e-3, "epochs": 2.0, "schedule": "cosine"}


class Token(NamedTuple):
    """A held-out token of the assistant: its dialogue, whether its turn is the last, its nats after and before."""

    talk: str
    last: bool
    nats: float
    before: float


REPEATS, UPDATES = 3, (2, 12)
"""How often updates are timed, and the lengths of the two runs whose difference is timed."""

WAYS = ("all turns", "last turn")


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="pairs of transcripts (hh_harmless): the chosen ones are used")
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of weights and order")
    asked = parser.parse_args()
    short, long = dialogues(asked.data)
    order = np.random.default_rng(0).permutation(len(long))
    held_out, rest = ([long[i] for i in some] for some in (order[:HELD_OUT], order[HELD_OUT:]))
    found: dict[str, list[list[Token]]] = {way: [] for way in WAYS}
    runs: dict[str, list[Path]] = {way: [] for way in WAYS}
    ways = {WAYS[0]: rest, WAYS[1]: [last_alone(turns) for turns in rest]}
    for seed in asked.seeds:
        start = made(asked.output / f"start-{seed}", short + rest, seed)
        base = learnt(asked.output / f"base-{seed}", start, short, seed, BASE)
        for way, talks in ways.items():
            run = learnt(asked.output / f"{way.replace(' ', '-')}-{seed}", base, talks, seed, ARMS)
            found[way].append(judged(run, base, held_out))
            runs[way].append(run)
    with tempfile.TemporaryDirectory() as folder:
        rates = speed(base, ways, Path(folder))
    print(f"{len(short)} dialogues of one turn, {len(rest)} of several to learn from, {len(held_out)} held out\n")
    print("\n".join(table(found, runs, rates)))


def dialogues(data: str) -> tuple[list[Any], list[Any]]:
    """Return the dialogues of one turn of the assistant, and those of several, as turns."""
    rows = [row.values["chosen"] for row in read_rows(parse_source(data))]
    talks = [[turn.to_dict() for turn in transcript_turns(text)] for text in rows]
    talks = [turns for turns in talks if turns and turns[-1]["role"] == "assistant"]
    found: tuple[list[Any], list[Any]] = ([], [])
    for turns in talks:
        found[sum(turn["role"] == "assistant" for turn in turns) > 1].append(turns)
    return found


def last_alone(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a dialogue of which only the last turn is learnt."""
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else dict(turn) for turn in turns[:-1]] + [
        dict(turns[-1])
    ]


def made(folder: Path, talks: Sequence[Any], seed: int) -> Path:
    """Write a model that knows nothing, and a tokenizer of byte pairs of the dialogues, unless they are there."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if folder.exists():
        return folder
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=[*SPECIALS], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator((turn["content"] for turns in talks for turn in turns), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=SPECIALS[0], eos_token=SPECIALS[2])
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIALS[1]]})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def learnt(folder: Path, model: Path, talks: Sequence[Any], seed: int, settings: Mapping[str, Any]) -> Path:
    """Train on dialogues, and return the run."""
    if not RunDir(folder).policy.exists():
        rows = folder.with_suffix(".jsonl")
        write_json_lines(rows, ({"messages": turns} for turns in talks))
        begun = RunDir(model).policy if RunDir(model).policy.exists() else model
        tokenq.train(begun, rows, folder, seed=seed, **SETTINGS, **settings)
    return folder


def judged(run: Path, base: Path, held_out: Sequence[Any]) -> list[Token]:
    """Return every held-out token of the assistant."""
    file = run / "held_out.json"
    if not file.exists():
        reader = tokenq.load(RunDir(run).policy, RunDir(base).policy, device="cpu")
        traces = reader.score_all([{"messages": turns} for turns in held_out])
        file.write_text(json.dumps([one for trace in traces for one in tokens_of(trace)]))
    return [Token(*one) for one in json.loads(file.read_text())]


def tokens_of(trace: Any) -> Iterator[Token]:
    """Yield each token that the assistant wrote; the last turn begins behind the last token that it did not write."""
    columns = trace.tokens.columns
    written = np.array(columns["written"], bool)
    last = int(np.flatnonzero(~written)[-1]) + 1
    for place in map(int, np.flatnonzero(written)):
        yield Token(trace.id, place >= last, -float(columns["logp"][place]), -float(columns["ref_logp"][place]))


def table(
    found: Mapping[str, Sequence[Sequence[Token]]], runs: Mapping[str, Sequence[Path]], rates: Mapping[str, float]
) -> Iterator[str]:
    """Yield the lines of the table: nats a token of all seeds, an interval over dialogues."""
    yield "| learnt | last turns: nats a token | earlier turns: nats a token | learnt tokens | tokens/s of a core |"
    yield "|---|--:|--:|--:|--:|"
    whole = {way: [one for seed in seeds for one in seed] for way, seeds in found.items()}
    first = whole[WAYS[0]]
    lines = {"before": [one.before for one in first]} | {way: [one.nats for one in whole[way]] for way in WAYS}
    for name, nats in lines.items():
        cells = [cell(mean_interval(*part(first, nats, last))) for last in (True, False)]
        training = f"{learnt_tokens(runs[name]):.0f} | {rates[name]:,.0f}" if name in runs else " |"
        yield f"| {name} | {' | '.join(cells)} | {training} |"
    cells = []
    for last in (True, False):
        (a, talks), (b, _) = (part(first, lines[way], last) for way in WAYS)
        cells.append(cell(difference_interval(a, b, talks)))
    yield f"| all − last | {' | '.join(cells)} | | |"
    for name, seeds in found.items():
        each = [[np.mean(part(seed, [one.nats for one in seed], last)[0]) for last in (True, False)] for seed in seeds]
        yield f"<!-- {name}, each seed: " + ", ".join(f"{a:.3f} and {b:.3f}" for a, b in each) + " -->"


def part(tokens: Sequence[Token], nats: Sequence[float], last: bool) -> tuple[Any, list[str]]:
    """Return the nats of last or earlier turns' tokens, and the dialogue of each."""
    kept = [(value, one.talk) for one, value in zip(tokens, nats, strict=True) if one.last == last]
    return np.array([value for value, _ in kept]), [talk for _, talk in kept]


def cell(one: Estimate) -> str:
    """Return an estimate with its interval."""
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def learnt_tokens(runs: Sequence[Path]) -> float:
    """Return how many tokens of a dialogue are learnt, on average."""
    steps = [step for run in runs for step in JsonLines(RunDir(run).metrics).read() if "response_length" in step]
    return float(np.mean([step["response_length"] for step in steps]))


def speed(base: Path, ways: Mapping[str, Sequence[Any]], folder: Path) -> dict[str, float]:
    """Return tokens a second of the processor, prompts and all turns counted, of updates alone.

    Runs that differ in their number of updates alone are taken in turn: what their difference takes is updates, and
    the processor's own clock does not see what else the machine does.
    """
    spent = {way: np.zeros((REPEATS, len(UPDATES), 2)) for way in ways}
    for place in np.ndindex(REPEATS, len(UPDATES)):
        for way, talks in ways.items():
            run, begun = folder / f"{way}-{place}", time.process_time()
            learnt(run, base, talks, 0, {**ARMS, "max_steps": UPDATES[place[1]]})
            spent[way][place] = time.process_time() - begun, list(JsonLines(RunDir(run).metrics).read())[-1]["tokens"]
    extra = {way: np.diff(each, axis=1)[:, 0] for way, each in spent.items()}
    return {way: float(np.median(each[:, 1] / each[:, 0])) for way, each in extra.items()}


if __name__ == "__main__":
    main()
