"""Is this run healthy? One table of checks, each a function of the run's record that finds something or nothing.

The checks stand by subject in `curve_checks`, `held_out_checks`, `optimiser_checks`, `precision_checks`, `cost_checks`,
`data_checks`, `row_checks`, `model_checks`, `round_checks` and `episode_checks`. A new one is a function there, a row
here and a section in docs/doctor.md.
"""

from collections.abc import Callable, Mapping, Sequence

from tokenq.doctor import (
    cost_checks,
    curve_checks,
    data_checks,
    episode_checks,
    held_out_checks,
    model_checks,
    optimiser_checks,
    precision_checks,
    round_checks,
    row_checks,
)
from tokenq.doctor.finding import SEVERITIES, Finding
from tokenq.runs.record import RunRecord

Check = Callable[[RunRecord], Finding | None]

CHECKS: Mapping[str, Check] = {
    "not a number": optimiser_checks.not_finite,
    "no gradient": optimiser_checks.no_gradient,
    "start": curve_checks.start,
    "weights today": model_checks.stale,
    "two models": model_checks.apart,
    "drift of log-probs": curve_checks.drift,
    "margin against KL": curve_checks.margins,
    "over-optimisation": held_out_checks.over_optimisation,
    "held-out accuracy": held_out_checks.chance,
    "segments": held_out_checks.blamed_segment,
    "perfect accuracy": curve_checks.perfect,
    "weights out of reach": precision_checks.out_of_reach,
    "nothing moved": optimiser_checks.nothing_moved,
    "loss above start": optimiser_checks.loss_above_start,
    "spikes": optimiser_checks.spikes,
    "warm-up": optimiser_checks.warm_up,
    "responses cut": data_checks.cut,
    "rows lost": data_checks.lost,
    "boundary": data_checks.boundary,
    "chosen = rejected": row_checks.equal_pairs,
    "duplicates": row_checks.duplicates,
    "contradictions": row_checks.contradictions,
    "held-out rows trained on": row_checks.leaked,
    "length tells": data_checks.length_alone,
    "loops in the data": row_checks.circles,
    "template": row_checks.remarks,
    "data changed": row_checks.changed,
    "reward and length": model_checks.reward_is_length,
    "length of samples": model_checks.length_drift,
    "end of samples": model_checks.no_end,
    "loops in samples": model_checks.repeats_itself,
    "KL of samples": model_checks.samples_kl,
    "below the reference": episode_checks.below_reference,
    "hacking": round_checks.hacked,
    "length of rounds": round_checks.length_creep,
    "entropy of rounds": round_checks.entropy_collapse,
    "ties": round_checks.everything_tied,
    "stale rollouts": round_checks.stale_rollouts,
    "template of rollouts": round_checks.template_drift,
    "edits": row_checks.edits,
    "clipping": optimiser_checks.clipped,
    "cost": cost_checks.cost,
    "nothing held out": held_out_checks.no_held_out,
    "unfinished": cost_checks.unfinished,
}
"""Every check by what it looks at."""


def diagnose(record: RunRecord) -> list[Finding]:
    """Return the findings of all checks, the worst first.

    Args:
        record: the run, with whatever was measured beside it.
    """
    findings = [finding for check in CHECKS.values() if (finding := check(record)) is not None]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def healthy(findings: Sequence[Finding]) -> bool:
    """Return whether nothing is worse than a note."""
    return all(finding.severity == "note" for finding in findings)
