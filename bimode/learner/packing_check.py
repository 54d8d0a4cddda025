"""Packed equals alone: whether a model gives in a packed line what it gives for each sequence by
itself.

`bimode.learner.packing` lays many sequences side by side and has attention keep them apart. That is
exact for a model that mixes tokens by causal attention alone. A convolution, a state-space layer or
an image that attends both ways runs on into the next sequence, and nothing fails: the
log-probabilities are wrong. So a run compares both before it trains (`check_packing`), and what is
known beforehand to be wrong is refused by its config (`known_reason`).
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bimode.errors import ConfigError
from bimode.learner.attention import refuse_unpackable
from bimode.learner.packing import pack
from bimode.learner.policy import Policy
from bimode.models.families import FAMILIES, TEXT, Family
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.renderer import Renderer, load_model

LIMIT = 1e-3  # nats in float32, where 1e-6 is usual
ROUNDING = 2.0  # times its own rounding may a model in bfloat16 be off, on average
FOREIGN_ERRORS = (  # what the code of a foreign model raises when it meets a packed line
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
RESPONSES = ((5, 7, 2), (6,), (9, 3))  # lengths, a tuple a prompt
QUESTIONS = ("what is it ?", "how many ?", "which of the two is larger, and why ?")
IMAGE_SIZES = (
    ((64, 64), (96, 48)),
    ((48, 80),),
    (),
)  # of each prompt, in pixels: unlike on purpose


@dataclass(frozen=True, slots=True)
class Probe:
    """Responses to one prompt, and the prompt's images as the model takes them."""

    responses: tuple[TrainingSample, ...]
    images: tuple[tuple[str, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class PackingCheck:
    """Differences of log-probabilities, in nats: the largest in float32, the mean in bfloat16 (0 if
    not asked).
    """

    tokens: int
    float32: float
    bfloat16: float = 0.0


def check_packing(
    path: Path, dtype: str, max_model_len: int, device: str | None = None
) -> PackingCheck:
    """Compares packed with alone for the model in `path`, in float32 and, if the run trains in it,
    in bfloat16.

    Needs 4 bytes a parameter on `device` (a GPU where there is one). Raises ConfigError with the
    number where float32 differs by more than `LIMIT`, or bfloat16 by more than twice its own
    rounding.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(path, torch.float32)
    refuse_known(model.config, max_model_len)
    model = model.to(device).eval()
    renderer = Renderer(path)
    probes = make_probes(renderer, length_to_probe(model.config, max_model_len))
    packed_N, alone_N = compare(model, probes, renderer.family)
    largest = float((packed_N - alone_N).abs().max())
    if not largest <= LIMIT:  # a NaN is refused too
        raise _refused(model, f"differ by {largest:.2g} nats from those of each sequence alone")
    if dtype == "float32":
        return PackingCheck(len(alone_N), largest)
    packed_N, rounded_N = compare(model.to(torch.bfloat16), probes, renderer.family)
    mean = float((packed_N - alone_N).abs().mean())
    rounding = float((rounded_N - alone_N).abs().mean())
    if not mean <= ROUNDING * rounding + LIMIT:
        own = f"its own rounding is {rounding:.2g}"
        raise _refused(model, f"in bfloat16 are off by {mean:.2g} nats on average, and {own}")
    return PackingCheck(len(alone_N), largest, mean)


def compare(
    model: Any, probes: Sequence[Probe], family: Family = FAMILIES[TEXT]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N] of the responses, in one packed line and of each sequence alone, on the
    host.

    Raises ConfigError where the model cannot be packed at all.
    """
    refuse_unpackable(model)
    text = model.config.get_text_config()
    own, device = text._attn_implementation, next(model.parameters()).device
    try:
        trees = [probe.responses for probe in probes]
        batch = pack(trees, [probe.images for probe in probes], family, model.model)
        with torch.no_grad():
            alone = [_alone(model, s, probe.images) for probe in probes for s in probe.responses]
            packed_N, _ = Policy(model)(batch.to(device))
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except FOREIGN_ERRORS as error:
        first = (str(error).splitlines() or [""])[0]
        raise _refused(model, f"cannot be computed ({type(error).__name__}: {first})") from error
    finally:
        text._attn_implementation = own
    return packed_N.float().cpu(), torch.cat(alone)


def _alone(model: Any, sample: TrainingSample, images: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Log-probabilities [T] of one response, by the model's own forward on that sequence."""
    device = next(model.parameters()).device
    ids_1T = torch.tensor([[*sample.prompt_ids, *sample.token_ids_T]], device=device)
    vision = {name: tensor.to(device) for name, tensor in images}
    if hasattr(model.model, "get_rope_index"):
        vision["mm_token_type_ids"] = (ids_1T == model.config.image_token_id).int()
    logits_TV = model(input_ids=ids_1T, **vision, use_cache=False).logits[0]
    predicting_TV = logits_TV[len(sample.prompt_ids) - 1 : -1].float()
    targets_T1 = torch.tensor(sample.token_ids_T, device=device)[:, None]
    logprobs_T: Tensor = predicting_TV.log_softmax(-1).gather(-1, targets_T1).squeeze(-1)
    return logprobs_T.cpu()


def _refused(model: Any, why: str) -> ConfigError:
    name = model.config.model_type
    fix = (
        f"log-probabilities of packed sequences {why}; training it here would be wrong: take"
        " another model"
    )
    return ConfigError("model.base", name, fix)


# ---- what is known beforehand ----

ATTENTION_LAYERS = {
    "attention",
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "global",
    "sparse",
    "moe",
    "dense",
}
NOT_ATTENTION_ALONE = {
    "recurrent_gemma": (
        "recurrent layers (RG-LRU), which run on from one packed sequence into the next"
    ),
    "zaya": "a convolution in its attention, which runs on from one packed sequence into the next",
    "paligemma": "a prompt whose tokens attend both ways, which a packed line does not compute",
    "gemma3": "images whose tokens attend both ways, which a packed line does not compute",
}
WINDOW_IN_THE_MASK = (
    "phimoe",
    "llama4_text",
)  # attention is not told of it, so that a packed line sees further


def known_reason(config: Any, max_model_len: int) -> str:
    """Why a model of this config is known to be computed wrongly in a packed line; empty if nothing
    is known.
    """
    text = config.get_text_config()
    for name in (config.model_type, text.model_type):
        if name in NOT_ATTENTION_ALONE:
            return f"has {NOT_ATTENTION_ALONE[name]}"
    layers = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    if other := sorted(set(layers) - ATTENTION_LAYERS):
        return f"has layers of type {', '.join(other)}, which a packed line does not keep apart"
    longest = max(getattr(text, "max_position_embeddings", None) or 0, max_model_len)
    if text.model_type in WINDOW_IN_THE_MASK and (window := _window(text)) and window < longest:
        return f"attends in windows of {window} tokens, which packed training ignores"
    if (original := _unscaled_length(text)) is not None and original < longest:
        return (
            f"scales its positions by the longest sequence (over {original} tokens), which in a"
            " packed line is another one's"
        )
    return ""


def refuse_known(config: Any, max_model_len: int) -> None:
    """Raises ConfigError for a config of which `known_reason` knows something."""
    if reason := known_reason(config, max_model_len):
        raise ConfigError(
            "model.base",
            config.model_type,
            f"{reason}; training it here would be wrong: take another model",
        )


def _unscaled_length(text: Any) -> int | None:
    """Positions up to which a rotary embedding whose frequencies depend on the length is the same
    for all; None for others.
    """
    given = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [part for part in given.values() if isinstance(part, dict)]
    for rope in by_layer_type or [given]:
        if rope.get("rope_type") == "longrope":
            return int(rope.get("original_max_position_embeddings") or 0)
        if rope.get("rope_type") == "dynamic":  # for which the config's number is the original one
            return int(text.max_position_embeddings)
    return None


def _window(text: Any) -> int | None:
    """Tokens that attention sees at most, where the config says so."""
    sizes = [getattr(text, key, None) for key in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size), default=None)


def length_to_probe(config: Any, max_model_len: int) -> int:
    """Tokens of the longest sequence to compare: a little over the model's window, if sequences of
    the run get there.
    """
    window = _window(config.get_text_config())
    return window + 16 if window and window < max_model_len else 0


# ---- what is compared ----


def make_probes(renderer: Renderer, longest: int) -> list[Probe]:
    """Three prompts with two, one and no image (text models: none), and six responses of ordinary
    tokens.

    The last response makes its sequence `longest` tokens long, if that is more than it has.
    """
    draw = random.Random(0)
    special = {*renderer.tokenizer.all_special_ids, *renderer.placeholder_ids}
    ordinary = [i for i in range(len(renderer.tokenizer)) if i not in special]
    probes = []
    for question, sizes, lengths in zip(QUESTIONS, IMAGE_SIZES, RESPONSES, strict=True):
        images = (
            tuple(noise_png(draw, *size) for size in sizes) if renderer.kind == "image_text" else ()
        )
        prompt_ids = renderer.encode_prompt(question, images)
        if not sizes:
            lengths = (*lengths[:-1], max(lengths[-1], longest - len(prompt_ids)))
        responses = [_response(prompt_ids, draw.choices(ordinary, k=n), images) for n in lengths]
        probes.append(Probe(tuple(responses), renderer.encode_images(images)))
    return probes


def noise_png(draw: random.Random, width: int, height: int) -> bytes:
    """A PNG of random pixels."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height)).save(buffer, "PNG")
    return buffer.getvalue()


def _response(
    prompt_ids: tuple[int, ...], ids: Sequence[int], images: tuple[bytes, ...] = ()
) -> TrainingSample:
    ones = (1.0,) * len(ids)
    return TrainingSample(
        prompt_ids=prompt_ids,
        token_ids_T=tuple(ids),
        loss_mask_T=ones,
        advantages_T=ones,
        behavior_logprobs_T=(nan,) * len(ids),
        images=images,
        mode=Mode.AUTO,
        origin="",
        versions_T=(0,) * len(ids),
    )
