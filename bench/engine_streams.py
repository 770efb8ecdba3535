"""What 1, 8 and 32 streams cost the server's engine, by the processor's clock, and one request after the other.

    python -m bench.engine_streams --model FOLDER --tokens 64

No HTTP: prompts are given to the batch of requests itself. Reading the prompts and writing are clocked apart.
"""

import argparse
import time
from collections.abc import Sequence

import torch

import tokenq
from tokenq.jobs.reader import Reader
from tokenq.models.forward.stepper import ModelStepper
from tokenq.search.branches import Limits, Walk
from tokenq.search.sampling import greedy
from tokenq.server.engine.counters import Counters
from tokenq.server.engine.request import Generation
from tokenq.server.engine.ticket import Line, Ticket
from tokenq.server.engine.writing import Writing

TEXT = "The history of the town begins with a river, a mill and a man who had more children than money. "


def prompts_of(reader: Reader, count: int) -> list[tuple[int, ...]]:
    """Return prompts of about thirty tokens, which begin otherwise after their first word."""
    return [tuple(reader.tokenizer(f"Story {i}: {TEXT[i % 7 :]}{i * i}").input_ids) for i in range(count)]


def streams(reader: Reader, prompts: Sequence[tuple[int, ...]], tokens: int) -> tuple[float, float]:
    """Return the seconds of reading some prompts, and of writing behind all of them at once."""
    assert reader.pair is not None
    counters, line = Counters(), Line()
    writing = Writing(reader.pair, most_running=64, most_kept=2**28, chunk=128, counters=counters)
    for prompt in prompts:
        asked = Generation(prompt=prompt, temperature=0, max_new_tokens=tokens, eos=frozenset())
        line.add(Ticket(asked, lambda _: None, "", tokens))
    begin = time.process_time()
    while counters.tokens_written < len(prompts):
        writing.step(line)
    read = time.process_time()
    while not writing.idle:
        writing.step(line)
    return read - begin, time.process_time() - read


def one_after_the_other(reader: Reader, prompts: Sequence[tuple[int, ...]], tokens: int) -> float:
    """Return the seconds of a search for each prompt by itself."""
    assert reader.pair is not None
    begin = time.process_time()
    for prompt in prompts:
        greedy(Walk(ModelStepper(reader.pair.models.policy), [prompt], Limits((), tokens)))
    return time.process_time() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    reader = tokenq.load(given.model, given.model)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| streams | prompt tokens | reading, s | writing, s | tokens a second of writing | of all |")
    print("|--:|--:|--:|--:|--:|--:|")
    for count in (1, 8, 32):
        prompts = prompts_of(reader, count)
        read, written = streams(reader, prompts, given.tokens)
        total, behind = count * given.tokens, count * (given.tokens - 1)
        cells = (count, sum(map(len, prompts)), f"{read:.2f}", f"{written:.2f}")
        rates = (f"{behind / written:.1f}", f"{total / (read + written):.1f}")
        print(f"| {' | '.join(map(str, (*cells, *rates)))} |")
    alone = one_after_the_other(reader, prompts_of(reader, 2), given.tokens)
    print(f"one request after the other: {2 * given.tokens / alone:.1f} tokens a second of all")


if __name__ == "__main__":
    main()
