"""Questions of small sums that a small base model can partly answer: `python -m bench.arithmetic FOLDER`.

Writes train.jsonl (64 prompts) and test.jsonl (200 others), each prompt behind two worked examples, with its answer.
"""

import argparse
import random
from pathlib import Path

from tokenq.files import write_json_lines

EXAMPLES = """Q: What is 4 + 9?
A: 4 + 9 = 13. The answer is 13.
Q: Tom has 8 cards and gives 5 of them to Eve. How many cards does Tom have left?
A: 8 - 5 = 3. The answer is 3.
"""
NAMES = ("Ann", "Ben", "Zoe", "Max", "Ida", "Leo")
THINGS = ("marbles", "apples", "books", "coins", "stamps")
KINDS = ("add", "subtract", "three", "word", "word")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder, seen = parser.parse_args().folder, set[str]()
    for name, count, seed in (("train", 64, 1), ("test", 200, 2)):
        rows, dice = [], random.Random(seed)
        while len(rows) < count:
            question, answer = _question(dice)
            if question not in seen:
                seen.add(question)
                rows.append({"prompt": f"{EXAMPLES}Q: {question}\nA:", "answer": str(answer)})
        write_json_lines(folder / f"{name}.jsonl", rows)


def _question(dice: random.Random) -> tuple[str, int]:
    kind = dice.choice(KINDS)
    a, b, c = dice.randint(1, 9), dice.randint(1, 9), dice.randint(1, 5)
    if kind == "add":
        return f"What is {a} + {b}?", a + b
    if kind == "subtract":
        return f"What is {a + b} - {b}?", a
    if kind == "three":
        return f"What is {a} + {b} + {c}?", a + b + c
    giver, taker = dice.sample(NAMES, 2)
    things = dice.choice(THINGS)
    return (
        f"{giver} has {a + b} {things} and gives {b} of them to {taker}. How many {things} does {giver} have left?",
        a,
    )


if __name__ == "__main__":
    main()
