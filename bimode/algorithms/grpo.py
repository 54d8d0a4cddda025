"""Vanilla GRPO in auto mode (arXiv 2402.03300, eq. 3): 2g rollouts of a query after ``<think>``,
each choosing a mode.

    J = E_q [ 1/(2g) sum_k 1/|o_k| sum_t min( rho_kt A_k, clip(rho_kt, 1 - eps, 1 + eps) A_k )  -
    beta D_KL ]

R-4B's baseline (figure 10, where it collapses to thinking); 2g, so that it spends the rollouts that
BPO spends. The decision is a sampled token like any other; `decision = masked` takes it out of the
loss, as AdaCoT does.
"""

from __future__ import annotations

from bimode.algorithms.base import AUTO_ONLY, Algorithm, whole_group_credit

ALGORITHM = Algorithm(
    draws=AUTO_ONLY,
    credit=whole_group_credit,
    decisions=("masked", "trained"),
    defaults={"decision": "trained"},
)
