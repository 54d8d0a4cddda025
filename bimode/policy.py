"""A policy as the learner sees it: packed rows in, log-probabilities and entropy of the response tokens out.

Only response positions go through the language-model head, so [B, T, V] is never materialised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bimode.packing import PackedBatch


def token_logprobs(logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, both [N], computed in the logits' precision."""
    logp_NV = torch.log_softmax(logits_NV / temperature, dim=-1)
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_NV.gather(-1, targets_N[:, None]).squeeze(-1), entropy_N


class Policy(nn.Module):
    """Wraps a causal or image-text model of transformers; `forward` is what DeepSpeed and torch engines call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Returns (logprobs_N, entropy_N) of the batch's response tokens."""
        images = dict(zip(batch.vision_names, batch.vision, strict=True))
        hidden_BTD = self.model.model(
            input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False, **images
        ).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1)[batch.at_N]
        logits_NV = self.model.lm_head(hidden_ND).float()
        return token_logprobs(logits_NV, batch.targets_N)
