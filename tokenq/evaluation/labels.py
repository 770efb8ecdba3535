"""What read-outs, rewards and metrics are called where people read them; files keep their identifiers."""

LABELS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "pooled_auroc": "AUROC, pooled",
    "pooled_average_precision": "average precision, pooled",
    "top_1": "top 1",
    "top_5": "top 5",
    "implicit_reward_minus_policy_mean": "implicit reward − its mean under π",
    "implicit_reward_minus_reference_mean": "implicit reward − its mean under π_ref",
    "policy_surprisal": "surprisal of the policy",
    "reference_surprisal": "surprisal of the reference",
    "centred_reference_surprisal": "centred surprisal of the reference",
    "both_surprisals": "sum of both surprisals",
    "reference_likelihood": "likelihood under the reference",
    "mean_implicit_reward": "mean implicit reward per token",
    "mean_likelihood": "mean likelihood per token",
    "gap_to_best": "gap to the best token",
    "entropy": "entropy of the policy",
}
"""Identifiers whose words alone do not say it."""


def label(identifier: str) -> str:
    """Return what an identifier is called."""
    return LABELS.get(identifier, identifier.replace("_", " "))
