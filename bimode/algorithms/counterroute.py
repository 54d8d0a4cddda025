"""CounterRoute (2026; no arXiv number is known to us): the credit of `per_mode`, and a curriculum
from forced to free.

    A_0 = +-s tanh( mean r(thinking) - mean r(direct) - margin ),   s = 4
    A_t = (r_k - mean_mode(r)) / std_mode(r)

A_0 stands on the decision token of the forced rollouts, A_t on the tokens of a response.

Rollouts that choose their mode themselves rise from none to 70 % of a prompt's, at least 15 % stay
in each forced mode, and the margin falls from .05 to 0. The paper's forced share goes 1, .5, .3 at
steps 0, 80, 100 of 300 and stays there; one line over the whole run is ours, and so are the weight
1/4 of the decision and the length of the margin's decay.
"""

from __future__ import annotations

from bimode.algorithms.base import BOTH_MODES, Algorithm
from bimode.algorithms.per_mode import credit

ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=credit,
    decisions=("counterfactual",),
    defaults={
        "decision": "counterfactual",
        "margin": 0.05,
        "margin_final": 0.0,
        "self_routed": 0.0,
        "self_routed_final": 0.7,
    },
    self_routes=True,
)
