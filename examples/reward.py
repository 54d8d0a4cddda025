"""An own reward: a right answer is worth up to 0.2 less, the longer it took.

[bpo]
reward = "examples.reward:shape"
"""

from bimode import RolloutGroup

PRICE = 0.2  # of the longest completion of its group


def shape(group: RolloutGroup) -> list[float]:
    """Return a reward for each completion of `group`; `rewards_G` holds the verifier's scores."""
    longest = max(completion.num_tokens for completion in group.completions)
    return [
        score * (1 - PRICE * completion.num_tokens / longest)
        for completion, score in zip(group.completions, group.rewards_G, strict=True)
    ]
