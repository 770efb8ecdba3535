"""Ranges of numbers in configurations."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args, get_origin, get_type_hints

import pytest

from tokenq.cli.main import COMMANDS
from tokenq.errors import UserError
from tokenq.ranges import SHARED, Range, check_ranges


@dataclass(frozen=True)
class Numbers:
    width: int = 1
    rate: float = 0.5
    maybe: int | None = None
    free: float = 0.0
    name: str = "x"
    on: bool = True


TABLE = (
    Range(("width",), least=1, most=10_000),
    Range(("rate",), above=0, below=1),
    Range(("maybe",), least=0),
)


@pytest.mark.parametrize(
    "values", [{}, {"width": 10_000}, {"rate": 1e-9}, {"maybe": 0}, {"free": -1e300}, {"free": 3}, {"on": False}]
)
def test_values_in_their_range_pass(values):
    check_ranges(Numbers(**values), TABLE)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"width": 0}, "--width is 0.\n  It must be from 1 to 10,000."),
        ({"width": 1_000_000_000}, "It must be from 1 to 10,000."),
        ({"width": 2.0}, "--width is 2.0.\n  It must be a whole number."),
        ({"width": "3"}, "--width is '3'"),
        ({"width": True}, "a whole number"),
        ({"rate": 0}, "--rate is 0.\n  It must be above 0 and below 1."),
        ({"rate": 1.0}, "above 0 and below 1"),
        ({"rate": math.nan}, "--rate is nan"),
        ({"rate": "0.5"}, "It must be a number."),
        ({"maybe": -1}, "It must be 0 or more."),
        ({"free": math.inf}, "--free is inf.\n  It must be a finite number."),
        ({"free": -math.inf}, "--free is -inf"),
        ({"free": math.nan}, "--free is nan"),
    ],
)
def test_others_are_refused_with_what_is_taken(values, says):
    with pytest.raises(UserError) as refused:
        check_ranges(Numbers(**values), TABLE)
    assert says in str(refused.value)


def numbers(config):
    """The fields of a configuration that are numbers; numbers by name (--segments) are the configuration's to check."""
    kinds = {name: kind for name, kind in get_type_hints(config).items() if get_origin(kind) is not Mapping}
    return {name for name, kind in kinds.items() if {int, float} & set(get_args(kind) or (kind,)) - {bool}}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_every_command_has_a_range(command):
    config = COMMANDS[command].config
    own = vars(sys.modules[config.__module__]).get("RANGES", ())
    assert numbers(config) - {name for row in (*SHARED, *own) for name in row.names} == set()


NEEDED = {
    "train": {"model": "m", "data": ["d"], "output": "o"},
    "score": {"policy": "p", "data": ["d"], "output": "o.jsonl"},
    "search": {"policy": "p", "prompts": ["d"], "output": "o.jsonl"},
    "play": {"policy": "p", "environment": "gridworld"},
    "serve": {"run": "r"},
    "sweep": {"policy": "p", "prompts": ["d"], "output": "o", "gold": "answer", "answer": "boxed"},
    "doctor": {"run": "r"},
    "export": {"run": "r", "output": "o"},
    "online": {"model": "m", "prompts": ["p"], "output": "o", "gold": "answer", "answer": "last_number"},
    "demo": {"model": "m", "data": ["d"]},
    "eval win-rate": {"preferences": "p"},
    "eval density": {"traces": "t"},
    "densify": {"policy": "p", "articles": ["a"]},
    **{f"eval {task}": {"traces": "t"} for task in ("preference", "localisation", "first-error")},
    **{f"eval {task}": {"results": ["r"], "task": "t"} for task in ("best-of-n", "generation", "kl-frontier")},
}
"""What each command needs besides."""


@pytest.mark.parametrize("command", NEEDED)
def test_every_command_refuses_numbers_out_of_range(command):
    config = COMMANDS[command].config
    config(**NEEDED[command]).check()
    for name in numbers(config):
        for value in (math.nan, math.inf, -1e30):
            with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is "):
                config(**{**NEEDED[command], name: value}).check()
