"""Online methods by name, in one table: who writes, what follows from rewards, what is learnt, when references move.

A method is a row and nothing else. Whoever writes a new one adds a row here; a new way to make pairs is a row of
`tokenq.rollout.pairing`, a new credit one of `tokenq.rollout.credits`, a new loss one of `LOSSES`. Imports no torch.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tokenq.errors import UserError, unknown_name

Who = Literal["policy", "reference", "data"]
Use = Literal["compared", "calibration", "both"]
Moves = Literal["never", "round"]
Learns = Literal["pairs", "advantages", "weights"]
Begins = Literal["start", "turn"]

EVERYTHING = 1.0
"""Share of replay that stands for all pairs of earlier rounds."""


class Draw(NamedTuple):
    """Responses that are written for every prompt of a round.

    Attributes:
        writer: the policy as it is, the reference, or the pairs of `--data` for the same prompt.
        count: (responses to compare) → how many of them.
        use: whether they are compared, read to calibrate pairs, or both.
        greedy: whether the likeliest token is taken instead of a drawn one.
        begins: where an episode begins: at the start, or behind a turn, drawn, of the prompt's first episode.
    """

    writer: Who
    count: Callable[[int], int]
    use: Use = "compared"
    greedy: bool = False
    begins: Begins = "start"

    @property
    def source(self) -> Begins | Literal["data"]:
        """Where an episode comes from: what is there already, or where it begins."""
        return "data" if self.writer == "data" else self.begins


class OnlineMethod(NamedTuple):
    """A row of the table.

    Attributes:
        loss: a key of `LOSSES`, or a sum of them.
        draws: what is written for each prompt.
        samples: responses to compare, where nobody says another number.
        pairing: a key of `PAIRINGS`.
        judge: a key of `JUDGES` that the method brings; "" for the one that is asked for.
        reference_moves: whether the reference of a round is the policy at its start, or the first one for ever.
        replay: share of what a round learns from that comes from earlier rounds and `--data`; `EVERYTHING` for all.
        beta: KL temperature, None for the loss's own.
        options: other parameters of the loss.
        temperature: of samples.
        batch_size: examples of an update.
        learns: what a round ends in.
        settings: of the credit, by the names of `CreditOptions`, for methods that learn from advantages.
        needs: what else has to be given, by field; ("environment",) where it makes sense for episodes alone.
    """

    loss: str
    draws: tuple[Draw, ...]
    samples: int = 4
    pairing: str = "best_worst"
    judge: str = ""
    reference_moves: Moves = "never"
    replay: float = 0.0
    beta: float | None = None
    options: Mapping[str, str] = {}
    temperature: float = 1.0
    batch_size: int = 8
    learns: Learns = "pairs"
    settings: Mapping[str, Any] = {}
    needs: tuple[str, ...] = ()

    @property
    def calibrates(self) -> bool:
        """Whether pairs get a response to calibrate on."""
        return any(draw.use != "compared" for draw in self.draws)


def _every(n: int) -> int:
    return n


def _one(n: int) -> int:
    return 1


PAIR = 2
"""Responses of a pair that was there before."""

_POLICY = (Draw("policy", _every),)
_GREEDY_FIRST = (
    Draw("policy", _one, "both", greedy=True),
    Draw("policy", lambda n: n - 1),
    Draw("data", lambda n: PAIR),
)
_AND_CALIBRATION = (Draw("policy", _every), Draw("reference", _one, "calibration"))
_BRANCHES = (Draw("policy", _one), Draw("policy", lambda n: n - 1, begins="turn"))
_AND_EXPERT = (Draw("policy", _every), Draw("data", _one))
_HALF = (Draw("policy", lambda n: n - n // 2), Draw("reference", lambda n: n // 2, "both"))

_GIVEN = {"calibration": "given"}


def _gradient(loss: str, samples: int, beta: float | None = None, **settings: Any) -> OnlineMethod:
    """Return the row of a policy gradient: the policy writes, and learns from advantages."""
    row = OnlineMethod(loss, _POLICY, samples, beta=beta, batch_size=RESPONSES)
    return row._replace(learns="advantages", settings=settings)


RESPONSES = 32
"""Of an update by policy gradients: where few are right, those of 8 responses are mostly noise."""

_DENSE = {"token_rewards": "implicit", "token_reward_form": "scaled", "token_reward_weight": 0.5}

METHODS: dict[str, OnlineMethod] = {
    "dpo": OnlineMethod("dpo", _POLICY),
    "ipo": OnlineMethod("ipo", _POLICY),
    "selm": OnlineMethod("selm", _GREEDY_FIRST, reference_moves="round", beta=0.01, options={"alpha": "1e-3"}),
    "vpo": OnlineMethod("vpo_online", _AND_CALIBRATION, samples=2, replay=EVERYTHING, options=_GIVEN),
    "xpo": OnlineMethod("xpo", _HALF, samples=2),
    "dice": OnlineMethod(
        "dpo",
        _POLICY,
        samples=16,
        pairing="length_regularised",
        judge="implicit",
        reference_moves="round",
        replay=0.5,
        temperature=0.9,
    ),
    "dmpo": OnlineMethod("dmpo", _POLICY),
    "eto": OnlineMethod("dpo", _AND_EXPERT, samples=1, reference_moves="round", needs=("environment", "data")),
    "branches": OnlineMethod("dpo", _BRANCHES, samples=2, pairing="shared_prefix", needs=("environment",)),
    "steerlm": OnlineMethod("steerlm", _POLICY, samples=10, judge="attributes", learns="weights"),
    "reinforce": _gradient("reinforce", 4, credit="returns"),
    "rloo": _gradient("rloo", 4, 0.01, credit="leave_one_out", kl="reward"),
    "grpo": _gradient("grpo", 8, 0.04, credit="group", scale_rewards="group", kl="loss", kl_estimator="k3"),
    "dr_grpo": _gradient("dr_grpo", 8, credit="group"),
    "dapo": _gradient("dapo", 16, credit="group", scale_rewards="group"),
    "gspo": _gradient("gspo", 8, credit="group", scale_rewards="group"),
    "ppo": _gradient("ppo", 1, 0.001, credit="gae", lam=0.95, whiten_advantages=True, kl="reward"),
    "prime": _gradient("ppo+implicit_prm", 4, credit="prime", token_reward_weight=5.0, whiten_advantages=True),
    "rto": _gradient("ppo", 1, 0.01, credit="gae", whiten_advantages=True, kl="reward", **_DENSE),
}
"""Every online method by its name. `--loss` and further flags replace what a row says."""


def find_method(name: str) -> OnlineMethod:
    """Return the row of a method.

    Raises:
        UserError: an unknown name.
    """
    if name not in METHODS:
        raise unknown_name("online method", name, METHODS)
    return METHODS[name]


def compared(method: OnlineMethod, samples: int, *, stored: bool) -> int:
    """Return how many responses to a prompt are compared at most.

    Args:
        method: the row.
        samples: of the policy and the reference.
        stored: whether there are pairs of `--data` to compare them with.
    """
    draws = (draw for draw in method.draws if draw.use != "calibration" and (stored or draw.writer != "data"))
    return sum(draw.count(samples) for draw in draws)


def refuse_uncomparable(method: OnlineMethod, name: str, samples: int, *, stored: bool) -> None:
    """Refuse a number of responses of which no two can be compared.

    Raises:
        UserError: says how many it takes.
    """
    if compared(method, samples, stored=stored) < PAIR:
        raise UserError(
            f"--samples {samples}: method {name} compares responses to one prompt.", "Give 2 or more: --samples 4."
        )
