"""A policy as the learner sees it: packed rows in, log-probabilities and entropy of the response tokens out.

Only response positions go through the language-model head, so [B, T, V] is never materialised; and of those at most
`head_chunk` at a time, so neither is [N, V]: what a chunk's logits are needed for in the backward pass is computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from bimode.packing import PackedBatch

FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers, in the words of transformers


def token_logprobs(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, both [N], computed in the logits' precision.

    The entropy is watched, not trained on: it has no graph.
    """
    logp_NV = torch.log_softmax(logits_NV, dim=-1)
    with torch.no_grad():
        entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return logp_NV.gather(-1, targets_N[:, None]).squeeze(-1), entropy_N


class Head(nn.Module):
    """The model's language-model head, from hidden states to log-probabilities, at most `chunk` positions at a time.

    It holds the head's own parameters and is called once a pass: ZeRO-3 gathers a module's parameters around its call, so
    calling `lm_head` chunk by chunk would gather them each time, and hang where ranks hold unequally many positions.
    """

    def __init__(self, lm_head: nn.Linear, chunk: int) -> None:
        super().__init__()
        self.weight, self.bias, self.chunk = lm_head.weight, lm_head.bias, chunk

    def forward(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (logprobs_N, entropy_N)."""
        if not 0 < self.chunk < len(hidden_ND):
            return self._all(hidden_ND, targets_N)
        chunks = zip(hidden_ND.split(self.chunk), targets_N.split(self.chunk), strict=True)
        parts = [checkpoint(self._all, *chunk, use_reentrant=False) for chunk in chunks]
        logprobs, entropy = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropy)

    def _all(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(linear(hidden_ND, self.weight, self.bias).float(), targets_N)


def may_attend(batch: PackedBatch, window: int | None = None) -> Tensor:
    """True where token i of a row may look at token j, [B, 1, T, T]: earlier in the row, same tree, trunk or own branch.

    With `window`, only at the last `window` positions of its own sequence (sliding attention).
    """
    tree, branch, position = batch.tree_BT, batch.branch_BT, batch.position_ids_BT
    i_T, j_T = torch.arange(tree.shape[1], device=tree.device)[:, None], torch.arange(tree.shape[1], device=tree.device)
    trunk_or_own_BTT = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    allowed_BTT = (j_T <= i_T) & (tree[:, None, :] == tree[:, :, None]) & trunk_or_own_BTT
    if window is not None:
        allowed_BTT = allowed_BTT & (position[:, :, None] - position[:, None, :] < window)
    return allowed_BTT[:, None]


class Policy(nn.Module):
    """Wraps a causal or image-text model of transformers; `forward` is what DeepSpeed and torch engines call.

    `head_chunk`: response positions whose logits exist at a time; 0 takes all at once.
    """

    def __init__(self, model: Any, head_chunk: int = 0) -> None:
        super().__init__()
        self.model = model
        self.head = Head(model.lm_head, head_chunk)

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Returns (logprobs_N, entropy_N) of the batch's response tokens."""
        images = dict(zip(batch.vision_names, batch.vision, strict=True))
        hidden_BTD = self.model.model(
            input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, attention_mask=self._mask(batch),
            use_cache=False, **images,
        ).last_hidden_state  # fmt: skip
        logprobs_N, entropy_N = self.head(hidden_BTD.flatten(0, 1)[batch.at_N], batch.targets_N)
        return logprobs_N, entropy_N

    def _mask(self, batch: PackedBatch) -> Tensor | dict[str, Tensor]:
        """The mask as this model's attention reads it: one, or one a kind of layer where some slide."""
        text = self.model.config.get_text_config()
        if SLIDING not in (getattr(text, "layer_types", None) or ()):
            return self._as_read(may_attend(batch))
        return {FULL: self._as_read(may_attend(batch)), SLIDING: self._as_read(may_attend(batch, text.sliding_window))}

    def _as_read(self, allowed_B1TT: Tensor) -> Tensor:
        if self.model.config.get_text_config()._attn_implementation != "eager":
            return allowed_B1TT
        blocked_B1TT = torch.zeros(allowed_B1TT.shape, dtype=self.model.dtype, device=allowed_B1TT.device)
        return blocked_B1TT.masked_fill_(~allowed_B1TT, torch.finfo(self.model.dtype).min)
