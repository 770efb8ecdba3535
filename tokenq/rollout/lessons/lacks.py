"""What goes against what a method learns from, by that: a function of the settings each. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tokenq.errors import UserError
from tokenq.rollout.credits import CREDITS, credit_lacks, given_credit_options, resolved_credit
from tokenq.rollout.methods import Learns, find_method, refuse_uncomparable

if TYPE_CHECKING:
    from tokenq.rollout.config import OnlineConfig


def learning_lacks(config: "OnlineConfig") -> list[UserError]:
    """Return what a method lacks, or what does not go with what it learns from."""
    method = find_method(config.method)
    lacking = [name for name in method.needs if not getattr(config, name)]
    if lacking:
        hint = "Episodes of an expert: --data E.jsonl." if lacking == ["data"] else "Add --environment textworld."
        return [UserError(f"--method {config.method} learns from episodes, and --{lacking[0]} is missing.", hint)]
    return LACKS[method.learns](config)


def _foreign(config: "OnlineConfig", flags: list[str], hint: str) -> list[UserError]:
    learns = find_method(config.method).learns
    return [UserError(f"{flag} is given, and {config.method} learns from {learns}.", hint) for flag in flags]


def _of_credit(config: "OnlineConfig") -> list[str]:
    """Return the flags that advantages alone have."""
    found = [f"--{name.replace('_', '-')}" for name in given_credit_options(config)]
    return found + [f"--truncated {config.truncated}"] * (config.truncated not in _CUT)


def _of_pairs(config: "OnlineConfig") -> list[str]:
    """Return the flags that pairs alone have."""
    given = {"--pairs": config.pairs != "auto", "--replay": bool(config.replay), "--flip-labels": config.flip_labels}
    judges = config.eval_size and config.environment is None  # the judge is judged by them
    given["--data"] = bool(config.data) and not judges
    return [flag for flag, is_given in given.items() if is_given]


def _pairs_lack(config: "OnlineConfig") -> list[UserError]:
    method = find_method(config.method)
    refuse_uncomparable(method, config.method, config.samples_of_prompt, stored=bool(config.data))
    return _foreign(config, _of_credit(config), "Leave it out, or take --method grpo, ppo, …")


def _advantages_lack(config: "OnlineConfig") -> list[UserError]:
    found = _foreign(config, _of_pairs(config), "Leave it out, or take --method dpo, ipo, …")
    return [*found, *_credit_lacks(config), *_reference_of_gradients(config)]


def _weights_lack(config: "OnlineConfig") -> list[UserError]:
    """Return what importance weights lack: a distribution that was drawn from, several draws, and a prior."""
    flags = [*_of_pairs(config), *_of_credit(config), *(["--beta"] if config.beta is not None else [])]
    found = _foreign(config, flags, "Leave it out, or take --method dpo, grpo, …")
    if config.environment is not None:
        found.append(
            UserError(f"--method {config.method} writes to prompts, not in an environment.", "Give --prompts.")
        )
    if config.samples_of_prompt < 2:
        hint = "Give 2 or more: --samples 10."
        found.append(UserError(f"--samples {config.samples_of_prompt}: one response has all the weight.", hint))
    if (config.sampling_temperature, config.top_k, config.top_p) != (1.0, 0, 1.0):
        hint = "Leave --temperature, --top-k and --top-p out."
        message = "Weights are P/Q' of what was drawn from Q' itself, and a temperature or a filter draws from another."
        found.append(UserError(message, hint))
    if config.reference is None:
        hint = "Name the model that was trained on the responses without their ratings: --reference SFT."
        found.append(UserError("Weights need P(y|x), what is written where nothing is asked for.", hint))
    if config.reference_moves == "round" or config.reference_sync_steps is not None:
        found.append(UserError("The reference is P(y|x), which does not move.", "Leave --reference-moves out."))
    return found


def _credit_lacks(config: "OnlineConfig") -> list[UserError]:
    """Return what the credit lacks, or what goes against it."""
    method = find_method(config.method)
    found = credit_lacks(
        config, method.settings, config.samples_of_prompt, has_reward_model=config.reward_model is not None
    )
    if (config.top_p < 1 or config.top_k > 0) and not config.allow_cut_support:
        flag = f"--top-p {config.top_p:g}" if config.top_p < 1 else f"--top-k {config.top_k}"
        found.append(
            UserError(
                f"{flag} never writes some of the tokens whose probabilities are learnt: a twelfth of what can be "
                "gained is lost, and no weight mends that.",
                "Leave it out, or insist with --allow-cut-support.",
            )
        )
    credit = resolved_credit(config, method.settings)
    if config.truncated == "bootstrap" and not CREDITS[credit["credit"]].valued:
        hint = "Take --credit gae, or --truncated mask or zero."
        found.append(UserError("--truncated bootstrap adds a value, and no value network is trained.", hint))
    if credit["kl"] != "none" and config.beta is None and method.beta is None:
        found.append(UserError(f"--kl {config.kl} has no weight.", "Give one: --beta 0.04."))
    if credit["kl"] == "none" and config.beta is not None:
        found.append(UserError("--beta weighs the KL penalty, and there is none.", "Add --kl reward or --kl loss."))
    return found


def _reference_of_gradients(config: "OnlineConfig") -> list[UserError]:
    """Return what goes against the way in which the reference moves."""
    if config.reference_sync_steps is None:
        return []
    found = []
    if config.reference_moves == "round":
        hint = "Leave one of the two out."
        found.append(UserError("--reference-sync-steps and --reference-moves round are both given.", hint))
    if resolved_credit(config, find_method(config.method).settings)["kl"] == "none":
        hint = "Add --kl reward, or leave it out."
        found.append(UserError("--reference-sync-steps moves a reference that nothing reads.", hint))
    return found


_CUT = ("keep", "drop")
"""What may become of responses that were cut, where no advantages follow."""

LACKS: Mapping[Learns, Callable[["OnlineConfig"], list[UserError]]] = {
    "pairs": _pairs_lack,
    "advantages": _advantages_lack,
    "weights": _weights_lack,
}
"""What is missing, by what a method learns from."""
