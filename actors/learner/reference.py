"""The frozen model that the KL term looks back to: log-probabilities of packed batches, and nothing
else.

Consumes the batches of a step before the policy's first forward pass, so that an offloaded
reference and the policy's activations are never on the device together.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from actors.learner import distributed
from bimode.learner.packing import PackedBatch
from bimode.learner.policy import Policy
from bimode.renderer import load_model


class Reference:
    """The model in `model_dir`, whole on every rank. With `offload` it lives on the host between
    the steps.
    """

    def __init__(
        self, model_dir: Path, dtype: torch.dtype, *, head_chunk: int, offload: bool
    ) -> None:
        self.policy = Policy(load_model(model_dir, dtype), head_chunk).eval().requires_grad_(False)
        self.home = torch.device("cpu") if offload else distributed.device()
        self.policy.to(self.home)

    @torch.no_grad()
    def logprobs(self, batches: Iterable[PackedBatch]) -> list[Tensor]:
        """Log-probabilities [N] of each batch's response tokens, on this rank's device; one trip
        there and back for all.
        """
        self.policy.to(distributed.device())
        found = [self.policy(batch)[0] for batch in batches]
        self.policy.to(self.home)
        return found
