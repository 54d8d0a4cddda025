"""What an engine takes in one prompt: the limits by hand, with the tokens that a rollout would
have.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bimode.chat_renderer import ChatRenderer
from bimode.errors import RefusedPromptError
from bimode.inputs.prompt_limits import MAX_IMAGES, PromptLimits, PromptModel
from bimode.renderer import Renderer

WORDS = "read the strip as one number . what is its remainder by 23 ?"


def picture(seed: int, side: int = 40) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def words(count: int) -> str:
    return " ".join(["read"] * count)


@pytest.mark.parametrize("num_images", range(5))
def test_tokens_are_counted_as_a_rollout_has_them(tiny_llava: Path, num_images: int) -> None:
    """Whatever the sizes of the pictures: LLaVA's are all resized to one canvas."""
    renderer = Renderer(tiny_llava)
    images = [picture(k, side=16 + 9 * k) for k in range(num_images)]
    counted = renderer.num_prompt_tokens(WORDS, images)
    assert counted == len(Renderer(tiny_llava).encode_prompt(WORDS, images))
    assert renderer.num_prompt_tokens(WORDS + " or not ?", images) > counted, (
        "another question has its own"
    )


def test_the_last_token_of_the_room_is_a_responses(tiny_llava: Path) -> None:
    """The longest trigger puts two tokens behind <think>, and one is left for the response: three
    less than max_model_len.
    """
    renderer = Renderer(tiny_llava)
    limits = PromptLimits.of(renderer, 128)
    assert (limits.max_images, limits.max_forced, limits.max_tokens) == (MAX_IMAGES, 2, 125)
    limits.check_tokens(125)
    with pytest.raises(RefusedPromptError) as refused:
        limits.check_tokens(126)
    assert refused.value.reason == "long_prompt"
    assert (
        refused.value.detail
        == "126 tokens, at most 125 (max_model_len = 128, 3 of them for the response)"
    )
    fixed = renderer.num_prompt_tokens(words(1), ()) - 1
    limits.check(renderer, words(125 - fixed), ())
    with pytest.raises(RefusedPromptError, match=r"= long_prompt: 126 tokens, at most 125 "):
        limits.check(renderer, words(126 - fixed), ())


def test_four_images_are_taken_and_a_fifth_is_not(tiny_llava: Path) -> None:
    renderer = Renderer(tiny_llava)
    limits = PromptLimits.of(renderer, 4096)
    limits.check(renderer, WORDS, [picture(k) for k in range(4)])
    with pytest.raises(RefusedPromptError, match=r": 5 images, at most 4$") as refused:
        limits.check(renderer, WORDS, [b"not even looked at"] * 5)
    assert refused.value.reason == "too_many_images"


def test_a_text_model_takes_no_image_and_a_judge_forces_nothing(text_model: Path) -> None:
    renderer = Renderer(text_model)
    limits = PromptLimits.of(renderer, 128)
    limits.check(renderer, "what is 3 + 4 ?", ())
    with pytest.raises(RefusedPromptError, match=r": 1 images, but the model reads text only$"):
        limits.check(renderer, "what is 3 + 4 ?", [picture(0)])
    judge = PromptLimits.of(ChatRenderer(text_model), 128)
    assert (judge.max_forced, judge.max_tokens) == (0, 127)


def test_the_key_is_that_of_tokenizer_shape_and_limit(tiny_llava: Path, tmp_path: Path) -> None:
    """The weights decide nothing, so that a model that was trained on asks of no row again; a word
    more in the template does.
    """
    model = PromptModel(tiny_llava, 128)
    trained = Path(shutil.copytree(tiny_llava, tmp_path / "trained"))
    (trained / "model.safetensors").write_bytes(b"other weights")
    assert PromptModel(trained, 128).key == model.key != PromptModel(tiny_llava, 256).key
    config = json.loads((trained / "tokenizer_config.json").read_text())
    (trained / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 77}))
    assert PromptModel(trained, 128).key != model.key
    assert model.refusal(WORDS, [picture(0)]) == ("", "")
    assert model.refusal(WORDS, [picture(0)] * 5) == ("too_many_images", "5 images, at most 4")
