"""The base model as a run uses it: opened, checked, and given whatever the modes need that it
lacks.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bimode.errors import ConfigError
from bimode.models.template import CHAT_TEMPLATE, WANTED, chat_template, install
from bimode.models.tiny_llava import TinyShape, write_tiny_llava
from bimode.renderer import Renderer, load_model, model_kind, save_model

NEW_TINY_LLAVA = "new:tiny-llava"


def prepare_base(
    base: str, root: Path, seed: int, max_pixels: int = 0
) -> tuple[Path, tuple[str, ...]]:
    """Writes the run's starting model to `root` and returns it with the tokens that had to be
    added.

    `base` is a directory or `new:tiny-llava`. A directory that already has the tags and the
    template is used in place, unless `max_pixels` (0: none) has to be written into its processor;
    otherwise what was in `root` goes. Weights are written in the type
    that they have in `base`. Raises ConfigError for a directory that is no model of a known kind.
    """
    if base == NEW_TINY_LLAVA:
        shutil.rmtree(root, ignore_errors=True)
        return write_tiny_llava(root, CHAT_TEMPLATE, TinyShape(), seed), ()
    source = Path(base)
    model_kind(source)
    renderer = Renderer(source)
    template = chat_template(renderer.family.image)
    had_template = renderer.tokenizer.chat_template == template
    pieces = {text: renderer.tokenizer.encode(text, add_special_tokens=False) for text in WANTED}
    added = install(renderer.tokenizer, renderer.family.image)
    if max_pixels:
        _bound_pixels(renderer, max_pixels)
    elif had_template and not added:
        return source, ()
    import torch

    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(seed)
    model = load_model(source, stored_dtype(source))
    if len(renderer.tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(renderer.tokenizer))
    embed_as_pieces(
        model, {renderer.tokenizer.convert_tokens_to_ids(text): pieces[text] for text in added}
    )
    model.config.get_text_config().eos_token_id = renderer.eos_id
    model.generation_config.eos_token_id = renderer.eos_id
    save_model(model, root)
    if renderer.kind == "image_text":
        renderer.processor.chat_template = template
    renderer.processor.save_pretrained(root)
    return root, added


def check_pixels(path: Path, max_pixels: int) -> None:
    """Raise ConfigError if images of the model in `path` cannot be bounded."""
    _bound_pixels(Renderer(path), max_pixels)


def _bound_pixels(renderer: Renderer, max_pixels: int) -> None:
    if renderer.kind == "text":
        fix = "is for models that see images; leave it out"
        raise ConfigError("model.max_pixels", max_pixels, fix)
    renderer.family.bound_pixels(renderer.processor, max_pixels)


def stored_dtype(path: Path) -> Any:
    """Returns the floating type of most bytes of a model's weights, whatever its config says.

    Where the weights are not safetensors it is "auto", the config's word.
    """
    import torch
    from safetensors import safe_open

    types = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    sizes: Counter[Any] = Counter()
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dict
                stored = weights.get_slice(name)
                if (dtype := types.get(stored.get_dtype())) is not None:
                    sizes[dtype] += math.prod(stored.get_shape()) * dtype.itemsize
    return sizes.most_common(1)[0][0] if sizes else "auto"


def embed_as_pieces(model: Any, pieces: Mapping[int, Sequence[int]]) -> None:
    """Token `id` begins as the mean of the tokens that its text was written with before,
    `pieces[id]`, in the embedding and in a head of its own. A resized model has the mean of all
    tokens there, which says nothing.
    """
    import torch

    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    with torch.no_grad():
        for table in tables:
            for id, parts in pieces.items():
                if parts:
                    table.weight[id] = table.weight[list(parts)].float().mean(0)
