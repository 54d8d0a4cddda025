"""R-4B's architecture in small: SigLIP vision, MLP projector, Qwen3 text, as a plain
`LlavaForConditionalGeneration`.

Made from config and a closed vocabulary, so that nothing is loaded from a hub. Two settings are
there for vLLM's Transformers backend: SigLIP without its pooling head, and an image processor that
states `crop_size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.modes import THINK_CLOSE, THINK_OPEN
from bimode.renderer import save_model

CANVAS = 40  # pixels a side: 5 x 5 patches
PATCH = 8  # pixels: one handwritten digit of scikit-learn fills one patch
NUM_NUMBERS = 100

SPECIAL = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", THINK_OPEN, THINK_CLOSE]
WORDS = [
    "\n",
    "\n\n",
    "user",
    "assistant",
    "system",
    "+",
    "-",
    "x",
    "=",
    ">",
    ",",
    ";",
    ":",
    ".",
    "?",
    "look",
    "so",
    "then",
    "digits",
    "bars",
    "terms",
    "read",
    "the",
    "strip",
    "as",
    "one",
    "number",
    "what",
    "is",
    "its",
    "remainder",
    "by",
    "multiply",
    "bar",
    "heights",
    "chart",
    "compute",
    "expression",
    "from",
    "left",
    "to",
    "right",
    "in",
    "image",
    "transcribe",
    "answer",
    "of",
    "and",
    "divided",
    "take",
    "product",
    "all",
    "work",
    "out",
    "shown",
]


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Sizes of the tiny model; the defaults give about 0.7 M parameters."""

    vision_width: int = 64
    vision_layers: int = 2
    text_width: int = 128
    text_layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 320
    max_positions: int = 1024
    init_std: float = 0.06  # three times the usual: at this width 0.02 learned far slower


def build_tokenizer() -> Any:
    """A word-level tokenizer: one token a word, a number (0 to 99) or a line break; so the mode is
    one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = [*SPECIAL, *WORDS, *[str(n) for n in range(NUM_NUMBERS)]]
    model = models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n\n|\n"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r" +"), behavior="removed"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^(?=[^\n])"), " "),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([s for s in SPECIAL if s not in (THINK_OPEN, THINK_CLOSE)])
    tokenizer.add_tokens([THINK_OPEN, THINK_CLOSE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<image>"],
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )


def build_processor(chat_template: str) -> Any:
    """The LLaVA processor around the tokenizer: images are already on the canvas, so nothing is
    resized.
    """
    from transformers import LlavaProcessor, SiglipImageProcessor

    size = {"height": CANVAS, "width": CANVAS}
    images = SiglipImageProcessor(
        size=size,
        crop_size=size,
        do_center_crop=False,
        do_resize=True,
        do_convert_rgb=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat_template
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
        chat_template=chat_template,
    )


def build_model(shape: TinyShape, tokenizer: Any, seed: int) -> Any:
    """A randomly initialized tiny LLaVA for `tokenizer`; equal seeds give equal weights."""
    import torch
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        Qwen3Config,
        SiglipVisionConfig,
    )

    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=2 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=PATCH,
        vision_use_head=False,
        initializer_range=shape.init_std,
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.text_width // shape.heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=shape.init_std,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def write_tiny_llava(
    path: Path, chat_template: str, shape: TinyShape | None = None, seed: int = 0
) -> Path:
    """Writes a plain Hugging Face directory (safetensors, processor, chat template) and returns
    it.
    """
    processor = build_processor(chat_template)
    model = build_model(shape or TinyShape(), processor.tokenizer, seed)
    save_model(model, path)
    processor.save_pretrained(path)
    return path
