"""Attention over a line of tokens that holds many sequences: each stretch of it sees its own keys,
and nothing is padded.

The models of transformers look an attention up by name and hand it whatever their `forward` was
given, so that `attend` gets the `Spans` of a packed batch (`bimode.learner.packing`) in every
layer. Work and memory are those of each sequence alone: no mask over the whole line exists, and a
tree's prompt is computed once for all of its responses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from bimode.errors import ConfigError
from bimode.models.families import FAMILIES

NAME = "bimode_spans"


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of queries, one after another, and the keys of each, as places in the line. The
    last keys of a stretch are the stretch itself, which it sees causally; those before them it sees
    whole.
    """

    queries: tuple[int, ...]  # lengths
    keys: tuple[int, ...]
    keys_K: Tensor

    def to(self, device: torch.device) -> Spans:
        """Return the same on `device`."""
        return replace(self, keys_K=self.keys_K.to(device))


def attend(
    module: Any,
    query_1HTD: Tensor,
    key_1GTD: Tensor,
    value_1GTD: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float,
    spans: Spans | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of `spans`, [1, T, H, D]; G heads of keys and values, each for H
    / G of queries.

    `sliding_window`: a token sees the last so many of its own sequence. Raises ConfigError for what
    it does not compute.
    """
    if spans is None:
        fix = (
            "does not pass keyword arguments on to its attention, so packed training is impossible;"
            " use another model"
        )
        raise ConfigError("model.base", type(module).__name__, fix)
    if attention_mask is not None:
        fix = (
            "builds an attention mask of its own, which packed training cannot apply; use another"
            " model"
        )
        raise ConfigError("model.base", type(module).__name__, fix)
    if softcap is not None or s_aux is not None:
        raise ConfigError(
            "model.base",
            type(module).__name__,
            "has sinks or a cap in its attention, which is not computed here",
        )
    gqa = query_1HTD.shape[1] != key_1GTD.shape[1]
    attention = partial(
        scaled_dot_product_attention, dropout_p=dropout, scale=scaling, enable_gqa=gqa
    )
    stretches = zip(
        query_1HTD.split(spans.queries, 2),
        key_1GTD.index_select(2, spans.keys_K).split(spans.keys, 2),
        value_1GTD.index_select(2, spans.keys_K).split(spans.keys, 2),
        strict=True,
    )
    out = [
        attention(q, k, v, attn_mask=seen(q.shape[2], k.shape[2], sliding_window, q.device))
        for q, k, v in stretches
    ]
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


def seen(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of `keys` each of the last `queries` of them sees; a purely causal one is no
    tensor in memory, and has a kernel.
    """
    if window is None or keys <= window:
        return causal_lower_right(queries, keys)
    all_QK = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return all_QK.tril(keys - queries).triu(keys - queries - window + 1)


def use_spans(model: Any) -> None:
    """Make the language model of `model`, a model of transformers, attend by `spans`. Raises
    ConfigError if it cannot.
    """
    from transformers import AttentionInterface

    refuse_unpackable(model)
    AttentionInterface.register(NAME, attend)
    model.config.get_text_config()._attn_implementation = NAME


def refuse_unpackable(model: Any) -> None:
    """Raise ConfigError for a model of transformers whose attention cannot be replaced, or whose
    parts lie elsewhere.
    """
    if not isinstance(getattr(model, "lm_head", None), nn.Linear) or not hasattr(model, "model"):
        fix = (
            "has no layers in `.model` with a linear head in `.lm_head`, where they are looked for;"
            " take another model"
        )
        raise ConfigError("model.base", type(model).__name__, fix)
    if not model._supports_attention_backend:
        fix = (
            "has an attention of its own, which packed sequences cannot be told to; take a model"
            " that transformers lets choose"
        )
        raise ConfigError("model.base", type(model).__name__, fix)
    has_mrope = any(hasattr(module, "get_rope_index") for module in model.modules())
    if has_mrope and model.config.model_type not in FAMILIES:
        fix = (
            "gives a token of an image several positions (M-RoPE), and a packed line has one for"
            " each; take another model"
        )
        raise ConfigError("model.base", type(model).__name__, fix)
