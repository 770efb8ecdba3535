"""What to type after a command was interrupted: whether it goes on, and with which words."""

from pathlib import Path

from tokenq.demo import config as demo
from tokenq.rollout import config as online
from tokenq.rollout.episodes import config as play
from tokenq.score import config as score
from tokenq.search import config as search
from tokenq.training import config as train


def train_again(config: train.TrainConfig) -> str:
    """Return how a training goes on."""
    recorded = Path(config.output) / "config.yaml"
    if not recorded.exists():
        return "Nothing was trained yet; start again with the same command."
    if config.save_only_model:
        return f"Its policy is in {config.output}/checkpoints, and no optimiser state to go on with."
    return f"Continue with: tokenq train --config {recorded} --resume"


def online_again(config: online.OnlineConfig) -> str:
    """Return how rounds go on."""
    recorded = Path(config.output) / "config.yaml"
    if not recorded.exists():
        return "Nothing was learnt yet; start again with the same command."
    return f"Continue with: tokenq online --config {recorded} --resume"


def demo_again(config: demo.DemoConfig) -> str:
    """Return how the demonstration goes on."""
    if config.images:
        return f"Nothing is kept of it; the same command begins anew, in {config.output}."
    return f"The same command goes on where this one stopped, in {config.output}."


def goes_on(_: object) -> str:
    """Return that the same command goes on."""
    return "The same command goes on where this one stopped."


def goes_on_from_output(config: score.ScoreConfig | search.SearchConfig | play.PlayConfig) -> str:
    """Return that the same command goes on where it writes a file."""
    return goes_on(config) if config.output else "Start again with the same command."


def nothing_written(_: object) -> str:
    """Return that nothing was written."""
    return "Nothing was written; start again with the same command."
