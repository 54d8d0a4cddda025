"""The learning rate of a step: linear warm-up, then a cosine (or a constant). One formula for every
engine.

With peak lr, W warm-up steps, S steps in all and s = 0 .. S - 1:

    s <  W    lr (s + 1) / W
    s >= W    lr (f + (1 - f) (1 + cos(pi p)) / 2)
    p = (s - W) / (S - 1 - W),   f = final_lr_share

so the last step runs at f lr; R-4B anneals from 4e-5 to 4e-6 (arXiv 2508.21113, appendix B), f =
0.1.
"""

from __future__ import annotations

import math

from bimode.config.common import OptimConfig


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Learning rate of 0-based `step` out of `total_steps`; steps past the end keep the last
    value.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    progress = min(1.0, (step - optim.warmup_steps) / max(1, total_steps - 1 - optim.warmup_steps))
    share = optim.final_lr_share
    return optim.lr * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))
