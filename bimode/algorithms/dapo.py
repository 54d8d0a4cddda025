"""DAPO (arXiv 2503.14476, eq. 8 to 13): GRPO with a higher upper clip, a mean over tokens, and
groups that all teach.

    J = E [ 1 / sum_k |o_k|  sum_k sum_t min( rho_kt A_k, clip(rho_kt, 1 - .2, 1 + .28) A_k ) ]
    A_k as in GRPO

`resample` draws other questions for groups whose rewards are all equal, `overlong_buffer` takes up
to 1 from responses that come near the limit (4096 of 20480 tokens in the paper: its last fifth). No
KL. The mean is over the tokens of the whole batch, as in TRL and verl; at most 3 further rounds are
ours. Rollouts as in `grpo`: G = 2g in auto mode.
"""

from __future__ import annotations

from bimode.algorithms.base import AUTO_ONLY, Algorithm, whole_group_credit

ALGORITHM = Algorithm(
    draws=AUTO_ONLY,
    credit=whole_group_credit,
    decisions=("masked", "trained"),
    defaults={
        "decision": "trained",
        "clip_high": 0.28,
        "aggregate": "token",
        "resample": 3,
        "overlong_buffer": 0.2,
        "kl": 0.0,
    },
)
