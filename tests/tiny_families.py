"""Tiny random models of the known image-text families, from config alone: `python -m
tests.tiny_families DIR [NAME ...]` writes them as Hugging Face directories.

Their tokenizers are byte-level, with the family's own special tokens. Biases and norms are random
too: zeros and ones would hide a tensor that was swapped or missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # Qwen's
CORPUS = ["user\nassistant\n\nwhat is the number in the image ?\n\n so the answer is 3 + 4 ."] * 8
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
GLM = (
    *("<|endoftext|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>"),
    *("<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"),
)
STD = 0.08
SIDE = {"height": 56, "width": 56}


@dataclass(frozen=True)
class Tiny:
    """The parts of a checkpoint."""

    config: Any
    model: type[Any]
    processor: Callable[[], Any]  # made after the model, since video processors need torchvision


def tokenizer(specials: Sequence[str], *, eos: str, pad: str, **named: Any) -> Any:
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_ = ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    made.decoder = decoders.ByteLevel()
    alphabet = ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
    )
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    made.add_tokens(
        [AddedToken(s, special=False, normalized=False) for s in ("<think>", "</think>")]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[s for s in specials if s not in (eos, pad)],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        **named,
    )


def text_of(made: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(made),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": STD,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
        "bos_token_id": None,
    } | more


def vision_of(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "initializer_range": STD,
    } | more


def qwen_vision(patch: int, **more: Any) -> dict[str, Any]:
    return {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": patch,
        "initializer_range": STD,
    } | more


def ids(made: Any, **names: str) -> dict[str, int]:
    return {key: made.convert_tokens_to_ids(name) for key, name in names.items()}


def qwen_ids(made: Any) -> dict[str, int]:
    return ids(
        made,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def qwen_images(patch: int) -> Any:
    cell = (2 * patch) ** 2  # pixels of a token
    return tf.Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": 4 * cell, "longest_edge": 64 * cell}
    )


def qwen2_5_vl() -> Tiny:
    made = tokenizer(QWEN, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
    text = text_of(made, hidden_size=128, rope_parameters=rope)
    vision = qwen_vision(14, out_hidden_size=128, window_size=56, fullatt_block_indexes=[1, 3])
    config = tf.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **qwen_ids(made)
    )

    def processor() -> Any:
        video = tf.Qwen2VLVideoProcessor(patch_size=14)
        return tf.Qwen2_5_VLProcessor(qwen_images(14), made, video)

    return Tiny(config, tf.Qwen2_5_VLForConditionalGeneration, processor)


def qwen3_vl() -> Tiny:
    made = tokenizer(QWEN, eos="<|im_end|>", pad="<|endoftext|>")
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    }
    text = text_of(made, head_dim=32, rope_parameters=rope)
    vision = qwen_vision(16, deepstack_visual_indexes=[0, 2], num_position_embeddings=64)
    config = tf.Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **qwen_ids(made)
    )

    def processor() -> Any:
        video = tf.Qwen3VLVideoProcessor(patch_size=16)
        return tf.Qwen3VLProcessor(qwen_images(16), made, video)

    return Tiny(config, tf.Qwen3VLForConditionalGeneration, processor)


def internvl() -> Tiny:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    specials = (*CHATML, *named.values())
    made = tokenizer(specials, eos="<|im_end|>", pad="<|endoftext|>", extra_special_tokens=named)
    text = tf.Qwen3Config(**text_of(made, head_dim=32, tie_word_embeddings=True))
    vision = tf.InternVLVisionConfig(
        **vision_of(image_size=[56, 56], patch_size=[14, 14], attention_bias=True)
    )
    config = tf.InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
        **ids(made, image_token_id="<IMG_CONTEXT>"),
    )

    def processor() -> Any:
        images = tf.GotOcr2ImageProcessor(
            size=SIDE, crop_to_patches=True, min_patches=1, max_patches=4
        )
        video = tf.InternVLVideoProcessor(size=SIDE)
        return tf.InternVLProcessor(images, made, video, image_seq_length=4)

    return Tiny(config, tf.InternVLForConditionalGeneration, processor)


def glm4v() -> Tiny:
    made = tokenizer(GLM, eos="<|endoftext|>", pad="<|endoftext|>")
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 3, 3],
    }
    ends = [made.eos_token_id, made.convert_tokens_to_ids("<|user|>")]
    text = text_of(
        made, hidden_size=128, attention_bias=True, rope_parameters=rope, eos_token_id=ends
    )
    vision = qwen_vision(14, depth=2, out_hidden_size=128, image_size=56)
    named = ids(
        made,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        image_start_token_id="<|begin_of_image|>",
        image_end_token_id="<|end_of_image|>",
        video_start_token_id="<|begin_of_video|>",
        video_end_token_id="<|end_of_video|>",
    )
    config = tf.Glm4vConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **named
    )
    size = {"shortest_edge": 8 * 784, "longest_edge": 128 * 784}

    def processor() -> Any:
        images = tf.Glm4vImageProcessor(
            patch_size=14, temporal_patch_size=2, merge_size=2, size=size
        )
        return tf.Glm4vProcessor(images, made, tf.Glm4vVideoProcessor(patch_size=14, size=size))

    return Tiny(config, tf.Glm4vForConditionalGeneration, processor)


def llava_onevision() -> Tiny:
    made = tokenizer((*CHATML, "<image>", "<video>"), eos="<|im_end|>", pad="<|endoftext|>")
    text = tf.Qwen2Config(**text_of(made, hidden_size=128, tie_word_embeddings=False))
    vision = tf.SiglipVisionConfig(**vision_of(vision_use_head=False))
    pins = [[56, 56], [56, 112], [112, 56], [112, 112]]
    named = ids(made, image_token_index="<image>", video_token_index="<video>")
    config = tf.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_grid_pinpoints=pins,
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=False,
        **named,
    )

    def processor() -> Any:
        return tf.LlavaOnevisionProcessor(
            tf.LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=pins),
            made,
            tf.LlavaOnevisionVideoProcessor(size=SIDE),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_9",
        )

    return Tiny(config, tf.LlavaOnevisionForConditionalGeneration, processor)


def llava_next() -> Tiny:
    made = tokenizer((*CHATML, "<image>"), eos="<|im_end|>", pad="<|endoftext|>")
    text = tf.LlamaConfig(**text_of(made, head_dim=32, tie_word_embeddings=False))
    vision = tf.CLIPVisionConfig(**vision_of())
    pins = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = tf.LlavaNextConfig(
        text_config=text,
        vision_config=vision,
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        image_seq_length=16,
        **ids(made, image_token_index="<image>"),
    )

    def processor() -> Any:
        images = tf.LlavaNextImageProcessor(
            size={"shortest_edge": 56}, crop_size=SIDE, image_grid_pinpoints=pins
        )
        return tf.LlavaNextProcessor(
            images,
            made,
            patch_size=14,
            num_additional_image_tokens=1,
            vision_feature_select_strategy="default",
        )

    return Tiny(config, tf.LlavaNextForConditionalGeneration, processor)


def smolvlm() -> Tiny:
    def processor(images: Any, made: Any) -> Any:
        sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}}
        video = tf.SmolVLMVideoProcessor(**sizes)
        return tf.SmolVLMProcessor(images, made, video, image_seq_len=4)

    parts = tf.SmolVLMVisionConfig, tf.SmolVLMConfig, tf.SmolVLMImageProcessor
    return _with_tiles(*parts, tf.SmolVLMForConditionalGeneration, processor)


def idefics3() -> Tiny:
    def processor(images: Any, made: Any) -> Any:
        return tf.Idefics3Processor(images, made, image_seq_len=4)

    parts = Idefics3VisionConfig, tf.Idefics3Config, tf.Idefics3ImageProcessor
    return _with_tiles(*parts, tf.Idefics3ForConditionalGeneration, processor)


def _with_tiles(
    vision: Any, config: Any, images: Any, model: Any, processor: Callable[[Any, Any], Any]
) -> Tiny:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    around = ("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>")
    specials = (*CHATML, *around, "<video>", *rows)
    made = tokenizer(specials, eos="<end_of_utterance>", pad="<|im_end|>")
    whole = config(
        text_config=tf.LlamaConfig(**text_of(made, head_dim=32, tie_word_embeddings=True)),
        vision_config=vision(**vision_of()),
        scale_factor=2,
        tie_word_embeddings=True,
        pad_token_id=made.pad_token_id,
        **ids(made, image_token_id="<image>"),
    )

    def both() -> Any:
        longest = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
        return processor(images(**longest, do_image_splitting=True), made)

    return Tiny(whole, model, both)


MAKERS = {
    maker.__name__: maker
    for maker in (
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        glm4v,
        llava_next,
        llava_onevision,
        smolvlm,
        idefics3,
    )
}


def write(name: str, folder: Path) -> Path:
    """Write the family `name` into `folder`, and return it."""
    torch.manual_seed(0)
    tiny = MAKERS[name]()
    model = tiny.model(tiny.config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            elif parameter.std() == 0:
                parameter.normal_(0, STD)
    model.generation_config.eos_token_id = tiny.config.get_text_config().eos_token_id
    model.save_pretrained(folder)
    if name in ("llava_next", "llava_onevision"):
        name_as_on_the_hub(folder / "model.safetensors")
    tiny.processor().save_pretrained(folder)
    return folder


def name_as_on_the_hub(file: Path) -> None:
    """Rename the weights of SigLIP and CLIP as published checkpoints have them: vLLM's classes know
    no others, and transformers keeps the names that it has loaded.
    """
    weights = load_file(file)
    known = "vision_tower.vision_model."
    renamed = {name.replace("vision_tower.", known, 1): value for name, value in weights.items()}
    save_file(renamed, file, metadata={"format": "pt"})


if __name__ == "__main__":
    root, *wanted = sys.argv[1:]
    for each in wanted or MAKERS:
        print(write(each, Path(root) / each))
