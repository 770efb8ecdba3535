"""Episodes as a page shows them: one that is lost in its second turn, one that is won, one that failed."""

from dataclasses import replace

from tokenq.records.episodes import Episode, Turn

SAID = ("You are in the kitchen. <b>Exits</b>: north.", "A pantry.\nIt is dark.", "The lamp is on.")


def turn(number, implicit, reward=0.0, **more):
    logps = (-0.25, -0.5 - number)
    pieces = (f"go {number}", "")
    return Turn(SAID[number], (1, 2), f"go {number}", (5, 2), logps, "stop", reward, pieces, implicit=implicit, **more)


LOST = Episode(
    id="textworld seed 3",
    environment="textworld",
    options={},
    seed=3,
    number=0,
    turns=(turn(0, (0.5, 0.25)), turn(1, (-1.5, 0.25), info={"invalid": True}), turn(2, (0.125, -0.5))),
    observation="You lost.",
    terminal=True,
    reason="terminated",
    success=False,
    luck=0.0,
    writer="policy",
    version=0,
    sampling={"temperature": 1.0},
    engine="tokenq float32",
    instructions="Find the lamp.",
)
WON = replace(
    LOST, id="textworld seed 4", seed=4, success=True, turns=(turn(0, (0.5, 0.25)), turn(1, (0.25, 0.5), 1.0))
)
FAILED = replace(
    LOST, id="textworld seed 5", seed=5, success=None, turns=(), observation=None, terminal=False, reason="timeout",
    error="no answer within 60 s",
)  # fmt: skip
UNREAD = replace(LOST, turns=tuple(replace(one, implicit=None) for one in LOST.turns))
