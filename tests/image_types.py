"""Tiny models of every type that sees images."""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers

from bimode.learner.packing_check import Probe, _response
from tests.model_types import KEYS, spread

IMAGE_ID = 63  # of the token that stands for a piece of an image
IMAGE_SIDE, PATCH = 56, 14  # pixels


def text_part(model_type: str, **more: Any) -> dict[str, Any]:
    """Config of the language model of an image-text model."""
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    )
    return {
        "model_type": model_type,
        "num_hidden_layers": 3,
        **{name: KEYS[name] for name in names},
        **more,
    }


def vision_part(model_type: str, **more: Any) -> dict[str, Any]:
    """Config of its vision tower."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return {
        "model_type": model_type,
        **sizes,
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH,
        **more,
    }


def image_configs() -> dict[str, tuple[Any, int, int]]:
    """By type: a tiny config, tokens of an image, and extra axes in front of [images, 3, height,
    width].
    """
    siglip = vision_part("siglip_vision_model", vision_use_head=False)
    llava = transformers.LlavaConfig(
        vision_config=siglip,
        text_config=text_part("qwen3"),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    pair = {"image_size": [IMAGE_SIDE] * 2, "patch_size": [PATCH] * 2}
    internvl = transformers.InternVLConfig(
        vision_config=vision_part("internvl_vision", **pair),
        text_config=text_part("qwen3"),
        image_token_id=IMAGE_ID,
    )
    idefics3 = transformers.Idefics3Config(
        vision_config=vision_part("idefics3_vision"),
        text_config=text_part("llama"),
        image_token_id=IMAGE_ID,
        scale_factor=2,
    )
    paligemma = transformers.PaliGemmaConfig(
        vision_config=siglip,
        text_config=text_part("gemma"),
        image_token_index=IMAGE_ID,
        projection_dim=64,
        hidden_size=64,
    )
    return {
        "llava": (llava, 16, 0),
        "internvl": (internvl, 4, 0),
        "idefics3": (idefics3, 4, 1),
        "paligemma": (paligemma, 16, 0),
        "lfm2_vl": (lfm2_vl(), 4, 0),
        "qwen2_vl": (qwen2_vl(), 4, 0),
    }


def lfm2_vl() -> Any:
    """Its text part has layers that are not attention."""
    siglip = vision_part("siglip2_vision_model", num_patches=16, vision_use_head=False)
    layers = ["conv", "full_attention", "conv"]
    return transformers.Lfm2VlConfig(
        vision_config=siglip,
        text_config=text_part("lfm2", layer_types=layers),
        image_token_id=IMAGE_ID,
        projector_hidden_size=64,
    )


def qwen2_vl() -> Any:
    """Its tokens have several positions."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    sizes = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "patch_size": PATCH}
    return transformers.Qwen2VLConfig(
        text_config=text_part("qwen2_vl_text", rope_parameters=rope),
        vision_config=sizes,
        image_token_id=IMAGE_ID,
    )


def tiny_image_text(model_type: str) -> Any:
    """A random tiny model of a type of `image_configs`."""
    config = image_configs()[model_type][0]
    torch.manual_seed(1)
    return spread(transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32))


def image_probes(model_type: str, counts: tuple[int, ...] = (2, 1, 0)) -> list[Probe]:
    """A prompt for each of `counts` images, with two responses."""
    _, tokens, axes = image_configs()[model_type]
    draw = random.Random(0)
    torch.manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(3, IMAGE_ID), k=length))

    probes = []
    for count in counts:
        prompt = (IMAGE_ID,) * (tokens * count) + ids(6)
        pixels = torch.randn(*(1,) * axes, count, 3, IMAGE_SIDE, IMAGE_SIDE)
        images = (("pixel_values", pixels),) if count else ()
        probes.append(Probe((_response(prompt, ids(4)), _response(prompt, ids(3))), images))
    return probes


# ---- the page ----
