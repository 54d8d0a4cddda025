"""A policy as the learner sees it: a packed batch in, log-probabilities and entropy of the response
tokens out.

Only response positions go through the language-model head, so [T, V] is never materialised; and of
those at most `head_chunk` at a time, so neither is [N, V]: what a chunk's logits are needed for in
the backward pass is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from bimode.learner.attention import use_spans
from bimode.learner.packing import PackedBatch


class TokenLogprobs(torch.autograd.Function):
    """Computes the log-probability of each target and the entropy of each distribution, both [N],
    from one [N, V] beside the logits.

    The entropy is watched, not trained on: it has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        top_N1 = logits_NV.amax(-1, keepdim=True)
        weights_NV = (logits_NV - top_N1).exp_()
        sum_N1 = weights_NV.sum(-1, keepdim=True)
        log_sum_N = (top_N1 + sum_N1.log()).squeeze(-1)
        entropy_N = log_sum_N - torch.einsum("nv,nv->n", weights_NV, logits_NV) / sum_N1.squeeze(-1)
        ctx.save_for_backward(weights_NV, sum_N1, targets_N)
        ctx.mark_non_differentiable(entropy_N)
        return logits_NV.gather(-1, targets_N[:, None]).squeeze(-1) - log_sum_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of log softmax at the target, less the distribution."""
        weights_NV, sum_N1, targets_N = ctx.saved_tensors
        gradient_N1 = gradient_N[:, None]
        return (weights_NV * (-gradient_N1 / sum_N1)).scatter_add_(
            -1, targets_N[:, None], gradient_N1
        ), None


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its logits after the head: ``cap * tanh(scale * x / cap)``, without a
    cap ``scale * x``.
    """

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitTransform:
        """Read it from the config of a language model of transformers. A missing or empty key
        changes nothing.
        """
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        scaling = getattr(config, "logits_scaling", None) or 1.0  # Granite, MiniCPM
        scale = scale * scaling if config.model_type == "hyperclovax" else scale / scaling
        return cls(scale, getattr(config, "final_logit_softcapping", None))  # Gemma 2 and later

    def __call__(self, logits_NV: Tensor) -> Tensor:
        """Return the logits that the model returns, [N, V]."""
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.cap is not None:
            logits_NV = (logits_NV / self.cap).tanh() * self.cap
        return logits_NV


class Head(nn.Module):
    """The model's language-model head, from hidden states to log-probabilities, at most `chunk`
    positions at a time.

    It holds the head's own parameters and is called once a pass: ZeRO-3 gathers a module's
    parameters around its call, so calling `lm_head` chunk by chunk would gather them each time, and
    hang where ranks hold unequally many positions.
    """

    def __init__(self, lm_head: nn.Linear, chunk: int, transform: LogitTransform) -> None:
        super().__init__()
        self.weight, self.bias, self.chunk = lm_head.weight, lm_head.bias, chunk
        self.transform = transform

    def forward(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (logprobs_N, entropy_N)."""
        if not 0 < self.chunk < len(hidden_ND):
            return self._all(hidden_ND, targets_N)
        chunks = zip(hidden_ND.split(self.chunk), targets_N.split(self.chunk), strict=True)
        parts = [checkpoint(self._all, *chunk, use_reentrant=False) for chunk in chunks]
        logprobs, entropy = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropy)

    def _all(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = self.transform(linear(hidden_ND, self.weight, self.bias).float())
        logprobs_N, entropy_N = TokenLogprobs.apply(logits_NV, targets_N)
        return logprobs_N, entropy_N


class Policy(nn.Module):
    """Wraps a causal or image-text model of transformers; `forward` is what DeepSpeed and torch
    engines call.

    `head_chunk`: response positions whose logits exist at a time; 0 takes all at once. Raises
    ConfigError as `use_spans`.
    """

    def __init__(self, model: Any, head_chunk: int = 0) -> None:
        super().__init__()
        use_spans(model)
        self.model = model
        transform = LogitTransform.of(model.config.get_text_config())
        self.head = Head(model.lm_head, head_chunk, transform)

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Returns (logprobs_N, entropy_N) of the batch's response tokens."""
        images = dict(zip(batch.vision_names, batch.vision, strict=True))
        place_RT = batch.position_ids_RT
        line = {
            "input_ids": batch.input_ids_T[None],
            "position_ids": place_RT if len(place_RT) == 1 else place_RT[:, None],
            "spans": batch.spans,
        }
        hidden_1TD = self.model.model(**line, **images, use_cache=False).last_hidden_state
        logprobs_N, entropy_N = self.head(hidden_1TD[0, batch.at_N], batch.targets_N)
        return logprobs_N, entropy_N
