"""Bi-mode policy optimization as R-4B prints it (arXiv 2508.21113, eq. 1 and figure 6, "mixed
advantage").

For each query, g thinking and g non-thinking rollouts are forced and merged into one group of 2g:

    J = E_q [ 1/(2g) sum_k 1/|o_k| sum_t min( rho_kt A_k, clip(rho_kt, 1 - eps, 1 + eps) A_k )  -
    beta D_KL ] A_k = (r_k - mean(r_1 .. r_2g)) / std(r_1 .. r_2g)

With 0/1 rewards the mean advantage of the thinking half is (p_T - p_N) / (2 std), of the other half
its negative: the modes are compared, but the right answers of the weaker mode lose credit together
with its wrong ones.

The paper does not say whether the forced decision token is scored. `masked` reads it literally: the
trigger is prompt. `trained` makes the decision the first token of the response, with the same A_k;
`forced_as_sampled` too, as if drawn with probability 1/2. 1/|o_k| is GRPO's, which R-4B follows.
"""

from __future__ import annotations

from bimode.algorithms.base import BOTH_MODES, Algorithm, whole_group_credit

ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=whole_group_credit,
    decisions=("masked", "trained", "forced_as_sampled"),
    defaults={"decision": "masked"},
)
