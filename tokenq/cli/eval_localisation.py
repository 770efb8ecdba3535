"""`tokenq eval localisation`: every read-out against labelled errors."""

from typing import Any

from tokenq.errors import UserError
from tokenq.evaluation.config import LocalisationConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval localisation")
def run(config: LocalisationConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, resampling, traces_of
    from tokenq.evaluation.localisation import ALL_TOKENS
    from tokenq.evaluation.task_localisation import localisation

    levels = ("word",) if config.errors else ("word", "step")
    traces, rows, cost = traces_of(config, levels, [config.errors] if config.errors else [])
    traces = list(traces)
    for trace in traces:
        trace.totals.given("logp")  # a reward model alone says nothing of tokens here
    stretches = {name: _stretches(name, row[str(config.errors)]) for name, row in rows.items()}
    classes = {**ALL_TOKENS, **config.classes}
    outcome = localisation(traces, stretches, classes=classes, against=config.against, how=resampling(config))
    return finish(config, outcome.costing(cost), traces)


def _stretches(where: str, value: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(start), int(end)) for start, end in value)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: the stretches are {value!r}.", "They are a list of [start, end], in characters of the response."
        ) from None
