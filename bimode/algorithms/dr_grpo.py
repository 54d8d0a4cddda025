"""Dr. GRPO (arXiv 2503.20783, section 3.2): GRPO without the two divisions that bias it.

    J = E_q [ 1/G sum_k 1/max_tokens sum_t min( rho_kt A_k, clip(rho_kt, 1 - eps, 1 + eps) A_k ) ]
    A_k = r_k - mean(r)

Over the std, questions that are nearly always right or wrong would weigh more; over |o_k|, a wrong
answer would cost less the longer it is. The rollouts are those of `grpo`: G = 2g in auto mode, the
decision a token like any other. No KL.
"""

from __future__ import annotations

from bimode.algorithms.base import AUTO_ONLY, Algorithm, whole_group_credit

ALGORITHM = Algorithm(
    draws=AUTO_ONLY,
    credit=whole_group_credit,
    decisions=("masked", "trained"),
    defaults={"decision": "trained", "normalize": "none", "aggregate": "constant", "kl": 0.0},
)
