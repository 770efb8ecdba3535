"""What is measured: one case is one process with one configuration.

A plan holds the sizes of a run of the benchmark (full or quick); the table of sections at the foot turns it into cases.
This module is plain data, so that the process that starts the others stays small: Linux counts what a parent had in
memory when it started a child towards the child's peak.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

LEARNING_RATE = 1e-6
BETA = 0.1
SEED = 0

WHOLE_STEP = 2**30
"""A token budget that puts all pairs of an update into one forward."""


@dataclass(frozen=True)
class Case:
    """One configuration of one system on some pairs.

    Attributes:
        section: key of `SECTIONS`.
        system: who trains; in section score "padded" is the usual way to read, in section search "generate" is
            transformers' way to write.
        setting: what a reader calls this configuration.
        workload: name of the pairs.
        pairs: how many of them, from the first.
        tokens_per_batch: tokenq's budget for one forward.
        per_device: TRL's batch size; gradients are accumulated to the pairs of an update.
        reference: "store" (log-probs computed once and kept in `store`), "online" (a forward of a second model in every
            step; TRL's default) or "precomputed" (TRL's option).
        store: name of the reference store; one that an earlier case filled is warm.
        checkpointing: gradient checkpointing (TRL's default is on; it is slower).
        epochs: passes over the pairs.
        top_k: alternatives that tokenq keeps at every token when it reads.
        method: how is written: "greedy", "samples", "beams", or "reward beams", which run the reference as well.
        count: samples or beams of each prompt.
    """

    section: str
    system: Literal["tokenq", "trl", "padded", "generate"]
    setting: str
    workload: str
    pairs: int
    tokens_per_batch: int = 0
    per_device: int = 0
    reference: Literal["store", "online", "precomputed"] = "online"
    store: str = ""
    checkpointing: bool = False
    epochs: int = 1
    top_k: int = 0
    method: str = ""
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Shape:
    """Pairs of random tokens, all of one shape.

    Attributes:
        prompt: tokens of the prompt.
        response: tokens of each response.
        pairs: how many pairs.
        prompts: how many different prompts; one for each pair when None.
    """

    prompt: int
    response: int
    pairs: int
    prompts: int | None = None


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        pairs: pairs of the data set in tokenq's own sections.
        trl_pairs: of these, the first so many in sections that hold both systems.
        option_pairs: of these, the first so many for TRL's further options and for several epochs.
        budgets: tokenq's token budgets beside TRL.
        budget: tokenq's token budget elsewhere.
        per_device: TRL's batch sizes.
        epochs: passes in the comparison over several epochs.
        length_shapes: prompt-heavy and response-heavy pairs, for both systems.
        length_per_device: TRL's batch sizes on them.
        row_shape: shape for the scaling with the number of pairs.
        row_counts: numbers of pairs.
        prompt_shapes: shapes for the scaling with the length of the prompt.
        fan_shape: many responses to one prompt, to be read.
        read_per_device: pairs that the usual way reads at a time.
        search_prompts: prompts that are searched side by side.
        search_prompt: tokens of each.
        sample_prompt: tokens of the one prompt that is sampled from.
        new_tokens: tokens that are written.
        beams: beams of each prompt.
        samples: samples of the one prompt.
    """

    pairs: int = 32
    trl_pairs: int = 16
    option_pairs: int = 8
    budgets: tuple[int, ...] = (512, 1024, 2048)
    budget: int = 1024
    per_device: tuple[int, ...] = (1, 2, 4, 8)
    epochs: int = 3
    length_shapes: Mapping[str, Shape] = field(
        default_factory=lambda: {"prompt-heavy": Shape(400, 40, 8), "response-heavy": Shape(60, 200, 8)}
    )
    length_per_device: tuple[int, ...] = (1, 4)
    row_shape: Shape = Shape(32, 16, 128)
    row_counts: tuple[int, ...] = (8, 32, 128)
    prompt_shapes: tuple[Shape, ...] = (Shape(128, 32, 8), Shape(512, 32, 8), Shape(1024, 32, 8))
    fan_shape: Shape = Shape(500, 40, 8, prompts=1)
    read_per_device: tuple[int, ...] = (1, 4)
    search_prompts: int = 8
    search_prompt: int = 200
    sample_prompt: int = 500
    new_tokens: int = 64
    beams: int = 5
    samples: int = 16

    def shapes(self) -> dict[str, Shape]:
        """Return the synthetic workloads by name."""
        prompts = {f"prompt {shape.prompt}": shape for shape in self.prompt_shapes}
        written = {
            "searched": Shape(self.search_prompt, self.new_tokens, self.search_prompts),
            "sampled": Shape(self.sample_prompt, self.new_tokens, 1),
        }
        return {**self.length_shapes, "rows": self.row_shape, "fan": self.fan_shape, **prompts, **written}


QUICK = Plan(
    pairs=16,
    trl_pairs=16,
    option_pairs=8,
    budgets=(256,),
    budget=256,
    per_device=(8,),
    epochs=1,
    length_shapes={"prompt-heavy": Shape(100, 10, 8)},
    length_per_device=(),
    row_shape=Shape(16, 8, 32),
    row_counts=(32,),
    prompt_shapes=(),
    fan_shape=Shape(100, 10, 4, prompts=1),
    read_per_device=(4,),
    search_prompts=2,
    search_prompt=40,
    sample_prompt=60,
    new_tokens=8,
)
"""For a tiny model: shows that everything runs; its times say nothing."""


def main_section(plan: Plan) -> list[Case]:
    """Return both systems on the same pairs, in turn, so that a drift of the machine meets both."""
    ours = [_tokenq("main", f"{n} tokens", plan.trl_pairs, n, store=f"main {n}") for n in plan.budgets]
    ours.append(_tokenq("main", "whole step", plan.trl_pairs, WHOLE_STEP, store="main whole"))
    theirs = [_trl("main", f"batch {n}", plan.trl_pairs, n) for n in plan.per_device]
    longest = max(len(ours), len(theirs))
    return [case for i in range(longest) for column in (ours, theirs) for case in column[i : i + 1]]


def option_section(plan: Plan) -> list[Case]:
    """Return TRL with options that trade speed for memory: checkpointing (its default), a precomputed reference."""
    sizes, smallest, n = sorted({min(plan.per_device), max(plan.per_device)}), min(plan.per_device), plan.option_pairs
    checkpointed = [_trl("trl", f"batch {size}, gradient checkpointing", n, size, checkpointing=True) for size in sizes]
    precomputed = _trl("trl", f"batch {smallest}, precomputed reference", n, smallest, reference="precomputed")
    return [*checkpointed, precomputed]


def store_section(plan: Plan) -> list[Case]:
    """Return tokenq with a new store, with that store warm, and without; for one epoch and for several."""
    once = [
        _tokenq("store", "new store", plan.pairs, plan.budget, store="shared"),
        _tokenq("store", "warm store", plan.pairs, plan.budget, store="shared"),
        _tokenq("store", "no store", plan.pairs, plan.budget),
    ]
    if plan.epochs == 1:
        return once
    few, epochs = plan.option_pairs, plan.epochs
    new = _tokenq("store", f"new store, {epochs} epochs", few, plan.budget, store="epochs", epochs=epochs)
    return [*once, new, _tokenq("store", f"no store, {epochs} epochs", few, plan.budget, epochs=epochs)]


def length_section(plan: Plan) -> list[Case]:
    """Return both systems on prompt-heavy and on response-heavy pairs of random tokens."""
    cases = []
    for name, shape in plan.length_shapes.items():
        what = f"{name}, {shape.prompt} + 2 × {shape.response}"
        place = {"workload": name}
        cases.append(_tokenq("lengths", what, shape.pairs, plan.budget, store=name, **place))
        cases += [_trl("lengths", f"{what}, batch {n}", shape.pairs, n, **place) for n in plan.length_per_device]
    return cases


def scaling_section(plan: Plan) -> list[Case]:
    """Return tokenq with growing numbers of pairs, and with growing prompts."""
    rows = [
        _tokenq("scaling", f"{n} pairs of one shape", n, plan.budget, store=f"rows {n}", workload="rows")
        for n in plan.row_counts
    ]
    names = {f"prompt {shape.prompt}": shape for shape in plan.prompt_shapes}
    prompts = [
        _tokenq("scaling", f"prompts of {shape.prompt}", shape.pairs, plan.budget, store=name, workload=name)
        for name, shape in names.items()
    ]
    return rows + prompts


def score_section(plan: Plan) -> list[Case]:
    """Return reading with both models: pairs of the data, and many responses to one prompt."""
    cases = []
    for workload, what, pairs in (("data", "pairs", plan.trl_pairs), ("fan", "one prompt", plan.fan_shape.pairs)):
        place = {"workload": workload, "tokens_per_batch": plan.budget}
        cases += [Case("score", "tokenq", f"{what}, {k} alternatives", pairs=pairs, top_k=k, **place) for k in (0, 5)]
        cases += [
            Case("score", "padded", f"{what}, {n} at a time", workload, pairs, per_device=n)
            for n in plan.read_per_device
            if n <= pairs
        ]
    return cases


def search_section(plan: Plan) -> list[Case]:
    """Return beams, samples and greedy writing, both systems in turn."""
    searched = {"workload": "searched", "pairs": plan.search_prompts}
    beams, samples = f"{plan.beams} beams", f"{plan.samples} samples"
    many = {"method": "samples", "count": plan.samples, "workload": "sampled", "pairs": 1}
    return [
        Case("search", "tokenq", f"{beams}, likelihood", method="beams", count=plan.beams, **searched),
        Case("search", "generate", beams, method="beams", count=plan.beams, **searched),
        Case("search", "tokenq", f"{beams}, with reference", method="reward beams", count=plan.beams, **searched),
        Case("search", "tokenq", samples, **many),
        Case("search", "generate", samples, **many),
        Case("search", "tokenq", "greedy", method="greedy", **searched),
        Case("search", "generate", "greedy", method="greedy", **searched),
    ]


SECTIONS: dict[str, Callable[[Plan], list[Case]]] = {
    "main": main_section,
    "trl": option_section,
    "store": store_section,
    "lengths": length_section,
    "scaling": scaling_section,
    "score": score_section,
    "search": search_section,
}
"""Every section by the name that `--sections` takes."""


def _tokenq(section: str, setting: str, pairs: int, budget: int, **options: Any) -> Case:
    kept = "store" if options.get("store") else "online"
    row = {"workload": "data", "reference": kept, **options}
    return Case(section, "tokenq", setting, pairs=pairs, tokens_per_batch=budget, **row)


def _trl(section: str, setting: str, pairs: int, per_device: int, **options: Any) -> Case:
    return Case(section, "trl", setting, pairs=pairs, per_device=per_device, **{"workload": "data", **options})
