"""Tools and questions to begin with: arithmetic that takes two calls."""

import random


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a * b


def questions(count: int = 200) -> list[dict[str, str]]:
    """Return rows of questions with their answers."""
    draws, rows = random.Random(0), []
    for _ in range(count):
        a, b, c = (draws.randint(2, 99) for _ in range(3))
        rows.append({"prompt": f"What is ({a} + {b}) * {c}?", "answer": str((a + b) * c)})
    return rows
