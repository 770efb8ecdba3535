"""Results to Markdown: one table of every case, and the claims that follow from it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cases import WHOLE_STEP

Result = Mapping[str, Any]
"""What a worker wrote of one case."""

COLUMNS = (
    *("section", "system", "setting", "pairs", "seconds", "pairs/s", "tokens/s", "peak GB"),
    *("TFLOP", "GFLOP/s", "matmul GFLOP/s", "% in updates", "% in all"),
)

LEGEND = """\
pairs: passes over pairs (pairs × epochs). seconds: from weights and token ids in memory to the last update, reference
included. tokens: a prompt counted once for its two responses. peak: most memory of the process, resident or, with an
accelerator, allocated there. TFLOP: what is needed: 6 P_body T + 6 P_head N + attention for the updates and a third
of it for a reference pass, with T the tokens of shared rows and N those of responses; no padding, nothing that is
computed twice. % in updates: needed operations of the updates over their time, as a share of the best 2048³ product in
the same process and type (empty where the reference is computed inside the updates). % in all: the same with the
reference pass and everything else.
Section search: prompts instead of pairs, seconds after a warm-up of two tokens, and the new tokens of what is returned
(the best beam, every sample); TFLOP is one forward pass over each prompt and over every beam or sample of it."""


def rate(result: Result) -> float:
    """Return pairs per second."""
    return passes(result) / float(result["seconds"])


def passes(result: Result) -> int:
    """Return pairs × epochs."""
    return int(result["case"]["pairs"] * result["case"]["epochs"])


def memory(result: Result) -> float:
    """Return peak memory in gigabytes."""
    return float(result["peak_memory"]) / 1e9


def update_share(result: Result) -> float | None:
    """Return the share of the matrix-multiply peak in the updates alone, None where they contain the reference."""
    if result["case"]["reference"] == "online":
        return None
    return float(result["needed"]["updates"] / result["update_seconds"] / result["matmul_rate"])


def total_share(result: Result) -> float:
    """Return the share of the matrix-multiply peak, reference included."""
    return float(sum(result["needed"].values()) / result["seconds"] / result["matmul_rate"])


def table(results: Iterable[Result]) -> str:
    """Return every case as a row of a Markdown table; a case that failed keeps its row."""
    rows = [COLUMNS, tuple("---" if i < 3 else "--:" for i in range(len(COLUMNS)))]
    for result in results:
        case = result["case"]
        head = (case["section"], case["system"], case["setting"])
        rows.append((*head, *(_cells(result) if "seconds" in result else (result["failed"],))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: Result) -> tuple[str, ...]:
    flops, share = sum(result["needed"].values()), update_share(result)
    return (
        str(passes(result)),
        f"{result['seconds']:.1f}",
        f"{rate(result):.3f}",
        f"{result['tokens'] / result['seconds']:.0f}",
        f"{memory(result):.2f}",
        f"{flops / 1e12:.2f}",
        f"{flops / result['seconds'] / 1e9:.0f}",
        f"{result['matmul_rate'] / 1e9:.0f}",
        "" if share is None else f"{100 * share:.0f}",
        f"{100 * total_share(result):.0f}",
    )


def claims(results: Sequence[Result]) -> list[str]:
    """Return one line for each claim that the results allow to judge."""
    good = [result for result in results if "seconds" in result]
    lines = []
    ours, theirs = (_of(good, section="main", system=system) for system in ("tokenq", "trl"))
    if ours and theirs:
        lines += _beside_trl(ours, theirs)
    options = _of(good, section="trl")
    if ours and options:
        lines += _options(ours, options)
    for setting in dict.fromkeys(result["case"]["workload"] for result in _of(good, section="lengths")):
        shaped = [result for result in _of(good, section="lengths") if result["case"]["workload"] == setting]
        lines += _throughput(setting, _of(shaped, system="tokenq"), _of(shaped, system="trl"))
    on_data = [
        r for r in _of(good, system="tokenq") if r["case"]["workload"] == "data" and r["case"]["section"] != "score"
    ]
    shares = [(share, result) for result in on_data if (share := update_share(result))]
    if shares:
        share, result = max(shares, key=lambda item: item[0])
        lines.append(
            f"share of the matrix-multiply peak in updates: at best {share:.0%} ({result['case']['setting']}), "
            f"with the reference pass {total_share(result):.0%}"
        )
    for workload in ("data", "fan"):
        read = [r for r in _of(good, section="score") if r["case"]["workload"] == workload]
        lines += _reading(_of(read, system="tokenq"), _of(read, system="padded"))
    searched = _of(good, section="search")
    for method in ("beams", "reward beams", "samples", "greedy"):
        rival = _of(searched, system="generate", method=method.removeprefix("reward "))
        lines += _searching(_of(searched, system="tokenq", method=method), rival)
    lines += _scaling([r for r in _of(good, section="scaling") if r["case"]["workload"] == "rows"])
    return lines


def _reading(ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    """Return tokenq's reading beside the usual way's fastest, in tokens of shared rows per second."""
    if not theirs:
        return []
    best, lines = max(theirs, key=rate), []
    for result in ours:
        apart = max(abs(a - b) for a, b in zip(result["total_logps"], best["total_logps"], strict=True))
        lines.append(
            f"reading ({result['case']['setting']}): {rate(result) / rate(best):.1f} × the usual way's best "
            f"({best['case']['setting']}) in {memory(result):.2f} GB against {memory(best):.2f} GB "
            f"({memory(result) / memory(best):.2f} ×); sums of log-probs differ by {apart:.1e}"
        )
    return lines


def _searching(ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    """Return tokenq's searches beside `generate`, in new tokens per second, and how many of both are the same."""
    lines = []
    for result, other in zip(ours, theirs, strict=False):
        a, b = (one["tokens"] / one["seconds"] for one in (result, other))
        line = (
            f"search ({result['case']['setting']}): {a:.1f} new tokens/s in {memory(result):.2f} GB against {b:.1f} in "
            f"{memory(other):.2f} GB (generate, {other['case']['setting']}), {a / b:.2f} × in "
            f"{memory(result) / memory(other):.2f} × the memory"
        )
        if result["case"]["method"] in ("beams", "greedy"):
            same = sum(one == another for one, another in zip(result["found"], other["found"], strict=True))
            line += f"; {same} of {len(result['found'])} responses are the same"
        lines.append(line)
    return lines


def _beside_trl(ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    leanest = min(theirs, key=memory)
    within = [result for result in ours if memory(result) <= memory(leanest)]
    lines = _throughput("the same pairs", ours, theirs)
    if within:
        lines += _throughput(f"in no more memory than TRL's leanest ({memory(leanest):.2f} GB)", within, theirs)
    else:
        lines.append(f"no tokenq setting stays within TRL's leanest ({memory(leanest):.2f} GB)")
    largest = max(theirs, key=lambda result: result["case"]["per_device"])
    lines += [
        f"memory with all pairs of an update in one forward: {memory(whole):.2f} GB against "
        f"{memory(largest):.2f} GB (TRL {largest['case']['setting']}), {memory(whole) / memory(largest):.2f} ×"
        for whole in ours
        if whole["case"]["tokens_per_batch"] == WHOLE_STEP
    ]
    for name in ("loss", "rewards/margins"):
        apart = [_apart(name, ours[0]["steps"], result["steps"]) for result in theirs]
        lines.append(f"largest difference of {name} in any update between tokenq and TRL: {max(apart):.1e}")
    return lines


def _options(ours: Sequence[Result], options: Sequence[Result]) -> list[str]:
    best = max(ours, key=rate)
    return [
        f"against TRL {result['case']['setting']}: {rate(best) / rate(result):.1f} × the throughput of "
        f"{rate(result):.3f} pairs/s; it peaks at {memory(result):.2f} GB, tokenq's leanest at "
        f"{min(map(memory, ours)):.2f} GB"
        for result in options
    ]


def _throughput(what: str, ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    if not ours or not theirs:
        return []
    best, other = max(ours, key=rate), max(theirs, key=rate)
    return [
        f"throughput, {what}: {rate(best):.3f} pairs/s ({best['case']['setting']}, {memory(best):.2f} GB) against "
        f"{rate(other):.3f} (TRL {other['case']['setting']}, {memory(other):.2f} GB), {rate(best) / rate(other):.1f} ×"
    ]


def _scaling(rows: Sequence[Result]) -> list[str]:
    if len(rows) < 2:
        return []
    first = rows[0]
    parts = [
        f"{passes(result) / passes(first):.0f} × the pairs in {result['seconds'] / first['seconds']:.2f} × the time"
        for result in rows[1:]
    ]
    return [f"cost with the number of pairs: {', '.join(parts)}"]


def _apart(name: str, ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> float:
    return max(abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True))


def _of(results: Iterable[Result], **wanted: str) -> list[Result]:
    return [result for result in results if all(result["case"][key] == value for key, value in wanted.items())]
