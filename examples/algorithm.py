"""An own algorithm: GRPO whose advantage counts twice where a response was non-thinking.

[bpo]
algorithm = "examples.algorithm:ALGORITHM"
"""

from dataclasses import replace

from bimode import Algorithm, Mode, RolloutGroup
from bimode.algorithms.base import (
    BOTH_MODES,
    CreditSettings,
    TokenCredit,
    whole_group_credit,
)


def credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """Return the credit of each completion of `group`, in order."""
    credited = whole_group_credit(group, settings)
    for at, completion in enumerate(group.completions):
        if completion.mode is Mode.NON_THINKING:
            twice_T = 2 * credited[at].advantages_T
            credited[at] = replace(credited[at], advantages_T=twice_T)
    return credited


ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=credit,
    decisions=("trained", "masked"),
    defaults={"decision": "trained", "kl": 0.0},
)
