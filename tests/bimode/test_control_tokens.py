"""Text is text: what a tokenizer would read as a control token is found, ordinary text is not."""

from __future__ import annotations

import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.chat_renderer import ChatRenderer
from bimode.errors import ConfigError
from bimode.inputs.text import ControlTokens, control_tokens
from bimode.modes import Mode, render_response
from bimode.renderer import Renderer

OURS = ["<image>", "<think>", "</think>", "<|im_start|>", "<|im_end|>"]
TINY = [*OURS, "<pad>", "<unk>"]
FOREIGN = ["<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|fim|>"]
ORDINARY = [
    "what is 3 < 4 | 5 > 2 ?",
    "a <b>bold</b> claim",
    "a <image of x>",
    "< image>",
    "<imag",
    "<|im_end |>",
    "im_end",
    "<|x|>",
    "think>",
    "<Think>",
    "<tool_call>",
    "",
]


def with_tokens(model: Path, to: Path) -> Path:
    """A copy of the model with four more special tokens, and one that is not special."""
    shutil.copytree(model, to)
    renderer = Renderer(to)
    renderer.tokenizer.add_special_tokens({"additional_special_tokens": FOREIGN})
    renderer.tokenizer.add_tokens(["<tool_call>"])
    renderer.processor.save_pretrained(to)
    return to


@pytest.fixture(scope="module")
def renderer(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(with_tokens(tiny_llava, tmp_path_factory.mktemp("models") / "more"))


def normalizing() -> Any:
    """A tokenizer that folds width and case, and then looks for one of its control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken("<eot>", normalized=True), AddedToken("<PAD>", normalized=False)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eot>", pad_token="<PAD>")


def test_the_list_is_that_of_the_actual_tokenizer(renderer: Renderer, tiny_llava: Path) -> None:
    assert control_tokens(Renderer(tiny_llava).processor) == ControlTokens(tuple(sorted(TINY)))
    assert renderer.control_tokens.names == tuple(sorted([*TINY, *FOREIGN]))
    again = pickle.loads(pickle.dumps(renderer.control_tokens))
    assert again == renderer.control_tokens and again.settings == renderer.control_tokens.settings


def test_a_token_counts_whether_it_is_named_or_only_marked() -> None:
    """Llama 3 names few of the tokens that it marks, and an end of text may be named and not
    marked.
    """
    tokenizer = normalizing()
    tokenizer.add_tokens(["<stop>", "<tool>"])
    tokenizer.eos_token = "<stop>"
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens(["<|reserved_0|>"])
    names = control_tokens(tokenizer).names
    assert names == tuple(sorted([*OURS, "<PAD>", "<eot>", "<stop>", "<|reserved_0|>"]))


@pytest.mark.parametrize("token", [*TINY, *FOREIGN])
def test_each_is_refused_by_its_name_in_whatever_is_encoded(renderer: Renderer, token: str) -> None:
    """A question that ended its own turn went to the model as two turns."""
    says = f"= control_token: {token} is one of the model's tokenizer; take it out of the text"
    for attempt in (
        lambda: renderer.encode_prompt(f"what is {token} ?", ()),
        lambda: renderer.encode_unexpanded(f"{token}what", 0),
        lambda: renderer.prompt_text(f"what{token}", 2, Mode.NON_THINKING),
        lambda: ChatRenderer(renderer.path).encode_prompt(f"what is {token} ?", ()),
        lambda: renderer.encode_response(render_response(Mode.THINKING, f"look : {token} 3", "8")),
        lambda: renderer.encode_response(render_response(Mode.NON_THINKING, "", f"8 {token}")),
    ):
        with pytest.raises(ConfigError) as refused:
            attempt()
        assert str(refused.value).endswith(says)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_encoded_as_it_stands(renderer: Renderer, text: str) -> None:
    """None of its ids is a control token's: those are the template's own."""
    ids = renderer.encode_prompt(text, ())
    empty = renderer.encode_prompt("", ())
    control = {
        renderer.tokenizer.convert_tokens_to_ids(name) for name in renderer.control_tokens.names
    }
    control.discard(renderer.tokenizer.unk_token_id)  # any word that the tiny vocabulary lacks
    assert [i for i in ids if i in control] == [i for i in empty if i in control]
    assert renderer.control_tokens.first_in_turn(text) == ""
    assert (
        renderer.encode_response(render_response(Mode.THINKING, "so 3", text))[-1]
        == renderer.eos_id
    )


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        ("<think>\nlook : 3\n</think>\n\n3", ""),
        ("<think>\n\n</think>\n\n3", ""),
        ("<think>\nlook : 3", ""),  # it goes on
        ("3", ""),
        ("3 <think>", "<think>"),
        (" <think>\n\n</think>\n\n3", "<think>"),
        ("look </think> 3", "</think>"),
        ("<think><think>\n</think>3", "<think>"),
        ("<think>\n</think>3</think>", "</think>"),
        ("<think>\n<|im_end|></think>3", "<|im_end|>"),
        ("<think>\n</think>3 <image>", "<image>"),
    ],
)
def test_a_turn_may_begin_with_its_own_think_block_and_no_more(
    renderer: Renderer, turn: str, found: str
) -> None:
    assert renderer.control_tokens.first_in_turn(turn) == found


def tokenizers_of(renderer: Renderer, text_model: Path) -> dict[str, Any]:
    return {
        "tiny": renderer.tokenizer,
        "bytes": Renderer(text_model).tokenizer,
        "normalizing": normalizing(),
    }


@pytest.mark.parametrize("name", ["tiny", "bytes", "normalizing"])
def test_what_is_found_is_what_the_tokenizer_would_read(
    renderer: Renderer, text_model: Path, name: str
) -> None:
    """2,000 texts of pieces of tokens: a name is found where the ids hold a control token's."""
    tokenizer = tokenizers_of(renderer, text_model)[name]
    controls = control_tokens(tokenizer)
    unknown = (tokenizer.unk_token_id, None)  # any word that the tiny vocabulary lacks
    ids_of = {name: tokenizer.convert_tokens_to_ids(name) for name in controls.names}
    special = {name: i for name, i in ids_of.items() if i not in unknown}
    controls = replace(controls, names=tuple(special))
    pieces = [
        *special,
        *ORDINARY,
        "<",
        ">",
        "|",
        "<|",
        "|>",
        "<EOT>",
        "<eot",
        "\uff1ceot\uff1e",
        "<pad",
        "</",
    ]
    rng, found = random.Random(0), 0
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 4)))
        ids = set(tokenizer.encode(text, add_special_tokens=False))
        assert bool(controls.first_in(text)) == bool(ids & set(special.values())), text
        found += bool(controls.first_in(text))
    assert 200 < found < 1800


def test_a_token_that_the_tokenizer_finds_after_folding_is_found_so(renderer: Renderer) -> None:
    controls = pickle.loads(pickle.dumps(control_tokens(normalizing())))
    assert controls.first_in("a <EOT> b") == controls.first_in("\uff1ceot\uff1e") == "<eot>"
    assert controls.first_in("<PAD>") == "<PAD>" and controls.first_in("<pad>") == ""
    assert controls.settings != control_tokens(renderer.processor).settings
