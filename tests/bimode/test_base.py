"""A base of another family, given what it lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bimode.models.prepare_model import prepare_base
from bimode.modes import DECIDE_DIRECT, THINK_CLOSE
from bimode.renderer import Renderer, load_model


def test_an_added_token_begins_as_what_its_text_was_written_with(
    tiny_text: Path, text_model: Path
) -> None:
    """In the embedding and in the head, which this model does not tie to it; no other row has
    moved.
    """
    before, after = load_model(tiny_text, torch.float32), load_model(text_model, torch.float32)
    old, new = Renderer(tiny_text).tokenizer, Renderer(text_model).tokenizer
    for table in ("get_input_embeddings", "get_output_embeddings"):
        rows, changed = getattr(before, table)().weight, getattr(after, table)().weight
        assert torch.equal(changed[: len(old)], rows)
        for text in (THINK_CLOSE, DECIDE_DIRECT):
            pieces = old.encode(text, add_special_tokens=False)
            assert len(pieces) == len(text), "a token a character"
            torch.testing.assert_close(
                changed[new.convert_tokens_to_ids(text)], rows[pieces].mean(0)
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_base_stays_in_its_own_type(tiny_text: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """A base in bfloat16 was written in float32: twice the disk, and twice the time to read it.

    What its config says is not what counts: it may name another type, and would lose bits.
    """
    said = "float32" if dtype is torch.bfloat16 else "bfloat16"
    base = retyped(tiny_text, tmp_path / "base", dtype, said)
    made, added = prepare_base(str(base), tmp_path / "made", seed=0)
    assert added
    stored = load_file(made / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    written = json.loads((made / "config.json").read_text())["dtype"]
    assert written == str(dtype).removeprefix("torch.")
    old, new = Renderer(base).tokenizer, Renderer(made).tokenizer
    rows = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    table = stored["model.embed_tokens.weight"]
    assert torch.equal(table[: len(old)], rows)
    pieces = old.encode(THINK_CLOSE, add_special_tokens=False)
    mean = rows[pieces].float().mean(0).to(dtype)  # summed in float32, rounded once
    assert torch.equal(table[new.convert_tokens_to_ids(THINK_CLOSE)], mean)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_a_model_is_loaded_in_the_type_that_is_asked_for(
    tiny_llava: Path, tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    """What the recipe says decides what trains, whatever type the base has."""
    base = retyped(tiny_llava, tmp_path / "base", stored, said=str(stored).removeprefix("torch."))
    model = load_model(base, wanted)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}


def retyped(model: Path, path: Path, dtype: torch.dtype, said: str) -> Path:
    """A copy of `model` with weights in `dtype` and a config that says `said`."""
    shutil.copytree(model, path)
    weights = load_file(path / "model.safetensors")
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"dtype": said}))
    return path
