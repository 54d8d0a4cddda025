"""A base of another family, given what it lacks."""

from __future__ import annotations

from pathlib import Path

import torch

from bimode.codec import Codec, load_model
from bimode.modes import DECIDE_DIRECT, THINK_CLOSE


def test_an_added_token_begins_as_what_its_text_was_written_with(tiny_text: Path, text_model: Path) -> None:
    """In the embedding and in the head, which this model does not tie to it; no other row has moved."""
    before, after = load_model(tiny_text, torch.float32), load_model(text_model, torch.float32)
    old, new = Codec(tiny_text).tokenizer, Codec(text_model).tokenizer
    for table in ("get_input_embeddings", "get_output_embeddings"):
        rows, changed = getattr(before, table)().weight, getattr(after, table)().weight
        assert torch.equal(changed[: len(old)], rows)
        for text in (THINK_CLOSE, DECIDE_DIRECT):
            pieces = old.encode(text, add_special_tokens=False)
            assert len(pieces) == len(text), "a token a character"
            torch.testing.assert_close(changed[new.convert_tokens_to_ids(text)], rows[pieces].mean(0))
