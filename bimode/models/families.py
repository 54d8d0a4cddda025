"""How the families of models differ: one frozen record a family, by the `model_type` of its config.

Nothing else in the code asks which model it is. A family says how an image is written in a prompt
before it is expanded, which tensors of the image processor the model wants, along which axis the
tensors of several prompts are joined, and what its engine needs. Positions follow from the model:
one with M-RoPE (`get_rope_index`) has four numbers a token, every other has one. A run proves what
is said here before it trains (`bimode.learner.packing_check`, `mismatch` of the first steps).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bimode.errors import ConfigError
from bimode.records import IMAGE_MARKER

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TEXT = "text"
Part = Literal["vision", "projector", "language"]


@dataclass(frozen=True, slots=True)
class Family:
    """What bimode knows of one family.

    Example: ``Family("<|vision_start|><|image_pad|><|vision_end|>", ("image_grid_thw",
    "pixel_values"))``.
    """

    image: str = IMAGE_MARKER  # in a prompt, before it is expanded
    tensors: tuple[str, ...] = ("pixel_values",)  # of the image processor, those that forward wants
    joined_on: Mapping[str, int] = field(default_factory=dict)  # axis of the images; 0 by default
    images_alone: bool = False  # the processor must look at each image by itself, as vLLM does
    from_sizes: bool = False  # the processor counts an image's tokens from its size alone
    has_video: bool = True  # the engine would make room for a video
    model_impl: str = "auto"  # vLLM's: its native class, unless that cannot load the model
    # what names of parameters hold: of the tower, and of what leads from it to the language model
    vision: str = r"\bvisual\.|vision_tower\.|vision_model\."
    projector: str = r"merger|multi_modal_projector|connector|image_newline"

    def part_of(self, parameter: str) -> Part:
        """Return which part of the model the parameter of this name belongs to."""
        if re.search(self.projector, parameter):
            return "projector"
        return "vision" if re.search(self.vision, parameter) else "language"

    def bound_pixels(self, processor: Any, max_pixels: int) -> None:
        """Have `processor` shrink an image of more than `max_pixels` before it becomes tokens.

        Raises ConfigError for a family whose processor has no such setting.
        """
        images = processor.image_processor
        if "image_grid_thw" in self.tensors:
            smallest = min(images.size["shortest_edge"], max_pixels)
            images.size = {"shortest_edge": smallest, "longest_edge": max_pixels}
        elif getattr(images, "max_patches", 0):
            tile = images.size["height"] * images.size["width"]
            images.max_patches = max(1, max_pixels // tile)
        else:
            fix = f"{type(images).__name__} has a fixed size; leave it out"
            raise ConfigError("model.max_pixels", max_pixels, fix)

    def expanded_ids(self, processor: Any, text: str, pictures: Sequence[Any]) -> list[int]:
        """Return the ids of `text`, with the placeholders of its images expanded."""
        given: dict[str, Any] = {}
        if pictures:
            given["images"] = list(pictures) if self.images_alone else [list(pictures)]
        return list(processor(text=[text], add_special_tokens=False, **given)["input_ids"][0])

    def ids_from_sizes(
        self, processor: Any, text: str, sizes: Sequence[tuple[int, int]]
    ) -> list[int]:
        """Return the same ids for images of `sizes` (width, height), without their pixels."""
        ids = processor.tokenizer.encode(text, add_special_tokens=False)
        if not sizes:
            return list(ids)
        rows_first = [(height, width) for width, height in sizes]
        counts = iter(
            processor._get_num_multimodal_tokens(image_sizes=rows_first)["num_image_tokens"]
        )
        placeholder = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        expanded: list[int] = []
        for id in ids:
            expanded += [id] * (next(counts) if id == placeholder else 1)
        return expanded

    def image_tensors(
        self, processor: Any, pictures: Sequence[Any]
    ) -> tuple[tuple[str, Tensor], ...]:
        """Return the tensors of `pictures` that the model's forward wants, by name."""
        import torch

        found = processor.image_processor(list(pictures), return_tensors="pt")
        names = [name for name in self.tensors if name in found]
        return tuple((name, torch.as_tensor(found[name])) for name in names)

    def join(self, name: str, parts: Sequence[Tensor]) -> Tensor:
        """Join the image tensors `name` of several prompts; other axes are padded to the largest,
        as the processor does for a batch.
        """
        import torch
        from torch.nn.functional import pad

        axis = self.joined_on.get(name, 0)
        ranks = range(parts[0].ndim)
        largest = [max(part.shape[d] for part in parts) for d in ranks]
        padded = []
        for part in parts:
            missing = [0 if d == axis else largest[d] - part.shape[d] for d in ranks]
            widths = [width for d in reversed(ranks) for width in (0, missing[d])]
            padded.append(pad(part, widths) if any(widths) else part)
        return torch.cat(padded, axis)

    def engine_options(self, max_images: int) -> dict[str, Any]:
        """Return the arguments of vLLM's engine that depend on the family."""
        if not max_images:
            return {"model_impl": self.model_impl, "limit_mm_per_prompt": {}}
        limits = {"image": max_images} | ({"video": 0} if self.has_video else {})
        return {"model_impl": self.model_impl, "limit_mm_per_prompt": limits}


def positions(
    model: Any, prompt_ids: Sequence[int], images: Mapping[str, Tensor], lengths: Sequence[int]
) -> Tensor:
    """Return the positions [R, T] of a tree: its prompt, then responses of `lengths`, each of which
    goes on from the prompt's end.

    R is 1, or 4 for a `model` (the part below the head) with M-RoPE: the place in the text, then
    time, height and width, of which an image's tokens share the first.
    """
    import torch

    n = len(prompt_ids)
    place_T = torch.cat([torch.arange(n), *(n + torch.arange(k) for k in lengths)])
    if not hasattr(model, "get_rope_index"):
        return place_T[None]
    ids_1P = torch.tensor([prompt_ids])
    is_image_1P = (ids_1P == model.config.image_token_id).int()
    axes_31P, delta = model.get_rope_index(
        ids_1P, mm_token_type_ids=is_image_1P, image_grid_thw=images.get("image_grid_thw")
    )
    end = n + int(delta.reshape(-1)[0])
    responses_T = torch.cat([end + torch.arange(k) for k in lengths])
    axes_3T = torch.cat([axes_31P[:, 0], responses_T.expand(3, -1)], 1)
    return torch.cat([place_T[None], axes_3T])


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
GRID = ("image_grid_thw", "pixel_values")
PATCHES = {"pixel_values": 1, "pixel_attention_mask": 1}  # axis 0 is the prompt
FAMILIES: dict[str, Family] = {
    TEXT: Family(tensors=()),
    "llava": Family(has_video=False, model_impl="transformers"),  # native: other names of weights
    "qwen2_5_vl": Family(QWEN_IMAGE, GRID, from_sizes=True),
    "qwen3_vl": Family(QWEN_IMAGE, GRID, from_sizes=True),
    "internvl": Family("<IMG_CONTEXT>"),
    "glm4v": Family("<|begin_of_image|><|image|><|end_of_image|>", GRID, from_sizes=True),
    "llava_next": Family(tensors=("image_sizes", "pixel_values"), has_video=False),
    "llava_onevision": Family(
        tensors=("batch_num_images", "image_sizes", "pixel_values"),
        images_alone=True,
        from_sizes=True,
    ),
    "smolvlm": Family(tensors=("pixel_attention_mask", "pixel_values"), joined_on=PATCHES),
    "idefics3": Family(
        tensors=("pixel_attention_mask", "pixel_values"), joined_on=PATCHES, has_video=False
    ),
}


def family_of(path: Path, model_type: str, is_pictured: bool) -> Family:
    """Return the family of the model in `path`. Raises ConfigError for an image-text model of an
    unknown one.
    """
    if not is_pictured:
        return FAMILIES[TEXT]
    if model_type not in FAMILIES:
        known = ", ".join(name for name in FAMILIES if name != TEXT)
        fix = f"model_type {model_type} is not known; image-text models that are: {known}"
        raise ConfigError("model", path, fix)
    return FAMILIES[model_type]
