"""A judge is asked in its own template, whatever family it is of; models without one are refused in
a line.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from bimode.chat_renderer import ChatRenderer
from bimode.errors import ConfigError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[bot] {% endif %}"
)


@pytest.fixture
def foreign(tiny_text: Path, tmp_path: Path) -> Path:
    """A text model with a template of its own and no think tags."""
    from transformers import AutoTokenizer

    shutil.copytree(tiny_text, tmp_path / "judge")
    tokenizer = AutoTokenizer.from_pretrained(tiny_text)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def test_a_foreign_model_is_asked_in_its_own_words(foreign: Path) -> None:
    renderer = pickle.loads(pickle.dumps(ChatRenderer(foreign)))
    assert isinstance(renderer, ChatRenderer)
    assert renderer.prompt_text("hard?", 0) == "[user] hard?</s>[bot] "
    assert (
        renderer.tokenizer.decode(renderer.encode_prompt("hard?", ())) == "[user] hard?</s>[bot] "
    )
    assert renderer.eos_id == renderer.tokenizer.convert_tokens_to_ids("</s>")
    with pytest.raises(ConfigError, match="set images = false"):
        renderer.prompt_text("hard?", 1)


def test_our_own_models_are_asked_in_auto_mode(tiny_llava: Path) -> None:
    renderer = ChatRenderer(tiny_llava)
    assert (
        renderer.prompt_text("what", 2)
        == "<|im_start|>user\n<image><image>what<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    assert renderer.prompt_text("what", 0).endswith(
        "user\nwhat<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    assert renderer.eos_id == renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_model_without_a_template_is_refused(tiny_text: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        ChatRenderer(tiny_text).prompt_text("hard?", 0)
