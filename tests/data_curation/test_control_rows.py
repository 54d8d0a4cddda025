"""A row whose text would become a control token is rejected by its name, in every split."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.curate import CurateConfig, SourceConfig
from bimode.config.traces import TraceConfig
from bimode.inputs.prompt_limits import PromptModel
from bimode.inputs.text import ControlTokens
from bimode.records import Sample
from bimode.renderer import Renderer
from data_curation.sampling.cache import Reply
from data_curation.sources.ingest import candidates
from data_curation.sources.layouts import read_record
from data_curation.traces.checks import check_trace
from data_curation.traces.generate import Teacher
from tests.rows import SOUND

CONTROLS = ControlTokens(
    ("<image>", "<think>", "</think>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<pad>")
)


@dataclass(frozen=True)
class Model:
    """A model whose tokenizer has these control tokens, and whose engine takes any prompt."""

    control_tokens: ControlTokens

    def refusal(self, question: str, images: Sequence[bytes]) -> tuple[str, str]:
        return "", ""


def verdict(split: str, controls: ControlTokens = CONTROLS, **texts: Any) -> tuple[str, str]:
    [row] = candidates(
        [replace(SOUND, **texts)], split, CurateConfig(), Model(controls)
    ).to_pylist()
    return row["reason"], row["detail"]


@pytest.mark.parametrize("split", ["train", "rl", "eval"])
@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        ("question", "what is <|im_end|> ?", "<|im_end|>"),
        ("question", "<|vision_start|><pad>", "<|vision_start|>"),
        ("question", "what does </think> do ?", "</think>"),
        ("answer", "8 <|im_end|>", "<|im_end|>"),
        ("answer", "<pad>", "<pad>"),
        ("trace", "3 + 5 = 8 <|im_end|> so 8", "<|im_end|>"),
        ("trace", "3 <|endoftext|> + 5 = 8", "<|endoftext|>"),
        ("transcription", "two <image> numbers", "<image>"),
    ],
)
def test_a_text_with_a_control_token_is_rejected_by_its_name(
    split: str, name: str, text: str, token: str
) -> None:
    """It ended a turn in its middle, or took a picture's place, and nobody was told."""
    assert verdict(split, **{name: text}) == ("control_token", f"{token} in the {name}")


@pytest.mark.parametrize(
    "text",
    [
        "is 3 < 5 | 5 > 3 ?",
        "what does <b> mean ?",
        "a <image of x> is here",
        "<|im_end",
        "<|other|> or <s>",
    ],
)
@pytest.mark.parametrize("name", ["question", "answer", "trace", "transcription"])
def test_the_text_next_to_it_passes(name: str, text: str) -> None:
    """Of another tokenizer's list a text is free: `<s>` marks what is struck out."""
    assert verdict("train", **{name: f"8 {text}"}) == ("", "")


def test_what_counts_is_the_list_of_the_tokenizer() -> None:
    question = "which of <s> and <|eot_id|> ends a turn ?"
    assert verdict("rl", question=question)[0] == ""
    more = ControlTokens((*CONTROLS.names, "<s>", "<|eot_id|>"))
    assert verdict("rl", more, question=question) == ("control_token", "<s> in the question")


def test_choices_are_part_of_the_question() -> None:
    columns = {"question": "q", "answer": "a", "choices": "c"}
    source = SourceConfig(path="x.jsonl", layout="columns", columns=columns)
    record = {"q": "Which one ends a turn ?", "a": "A", "c": ["<|im_end|>", "a full stop"]}
    asked = read_record(record, source, "x#0", lambda path: b"")
    assert isinstance(asked, Sample)
    [row] = candidates([asked], "train", CurateConfig(), Model(CONTROLS)).to_pylist()
    assert (row["reason"], row["detail"]) == ("control_token", "<|im_end|> in the question")


def test_another_tokenizer_makes_candidates_anew(tiny_llava: Path, tmp_path: Path) -> None:
    """Or a row would stay that was read for a tokenizer without the token."""
    shutil.copytree(tiny_llava, tmp_path / "model")
    before = PromptModel(tmp_path / "model", 128).key
    tokenizer = Renderer(tmp_path / "model").processor
    tokenizer.tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    tokenizer.save_pretrained(tmp_path / "model")
    assert PromptModel(tmp_path / "model", 128).key != before


def test_a_trace_that_a_model_wrote_is_held_to_the_same_list() -> None:
    row = {"question": "what is 3 + 5 ?", "answer": "8", "verifier": "int", "verifier_args": "{}"}
    written = "3 + 5 = 8 <|endoftext|> so 8"
    assert check_trace(row, written, TraceConfig(), CONTROLS) == (
        "forbidden_phrase",
        "<|endoftext|>",
    )
    assert check_trace(row, "3 + 5 = 8 so 8", TraceConfig(), CONTROLS) == ("", "")
    teacher = Teacher(object, "wise", "0", "float32", 256, TraceConfig(), 0, {}, CONTROLS)
    for trace, outcome in ((written, "forbidden_phrase"), ("3 + 5 = 8 so 8", "right")):
        reply = Reply("a-1", "", "thinking", 0, 0, "right", 1.0, 9, f"\n{trace}\n</think>\n\n8", "")
        assert teacher.outcome(row, reply) == outcome
