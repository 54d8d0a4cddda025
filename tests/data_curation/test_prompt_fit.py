"""Rows whose prompt no engine takes are rejects of every split, by id and number, before a model is
asked about any row.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bimode.config.curate import CurateConfig, FilterConfig, SourceConfig
from bimode.inputs.prompt_limits import PromptModel
from bimode.records import Sample
from data_curation.demo import family_of
from data_curation.sources.ingest import candidates
from data_curation.sources.shards import DrawnShard, shard_key

CONFIG = CurateConfig()
EVEN = (1.0, 1.0, 1.0)
REASON = ("reason", "detail")


def strips(split: str = "train") -> list[Sample]:
    """One that fits, one with four images, one with five, one that is too long, and one that is too
    long for a filter too.
    """
    draw = family_of(SourceConfig(family="digits"))
    fits = draw(0, split, 0, EVEN)
    words = " ".join(f"w{k}" for k in range(300))
    return [
        fits,
        replace(fits, id="four", images=fits.images * 4),
        replace(fits, id="five", images=fits.images * 5),
        replace(fits, id="long", question=words),
        replace(fits, id="filtered", question=words * 2),
    ]


def told(made: list[Sample], split: str, model: PromptModel | None) -> dict[str, tuple[str, str]]:
    config = CONFIG.model_copy(update={"filter": FilterConfig(max_question=2000)})
    rows = candidates(made, split, config, model).to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


@pytest.mark.parametrize("split", ["train", "rl", "eval"])
def test_a_row_that_no_engine_takes_is_a_reject_with_its_number(
    tiny_llava: Path, split: str
) -> None:
    made = strips()
    found = told(made, split, PromptModel(tiny_llava, 256))
    assert found[made[0].id] == found["four"] == ("", "")
    assert found["five"] == ("too_many_images", "5 images, at most 4")
    reason, detail = found["long"]
    assert (
        reason == "long_prompt"
        and " tokens, at most 253 (max_model_len = 256, " in detail
        and int(detail.split()[0]) > 253
    )
    assert found["filtered"][0] == "long_question", "what is filtered anyway is not counted"


def test_what_decides_is_the_limit_and_the_model(tiny_llava: Path, text_model: Path) -> None:
    made = strips()
    assert told(made, "rl", PromptModel(tiny_llava, 4096))["long"] == ("", "")
    pictured = told(made, "rl", PromptModel(text_model, 4096))
    assert pictured["four"] == ("too_many_images", "4 images, but the model reads text only")
    assert told(made, "rl", None)["five"] == (
        "",
        "",
    ), "nobody was named whose prompt it is to become"
    assert told(made, "decontaminate", PromptModel(tiny_llava, 64))["five"] == (
        "",
        "",
    ), "such rows become no prompts"


def test_another_model_or_limit_asks_again_and_the_same_does_not(
    tiny_llava: Path, text_model: Path
) -> None:
    shard = DrawnShard(SourceConfig(family="digits"), "rl", "rl", 0, 8, 0, EVEN)
    keys = {
        shard_key(shard, CONFIG, PromptModel(path, max_model_len).key)
        for path, max_model_len in (
            (tiny_llava, 128),
            (tiny_llava, 256),
            (text_model, 256),
            (tiny_llava, 128),
        )
    }
    assert len(keys) == 3
    check = replace(shard, split="decontaminate")
    assert shard_key(check, CONFIG, "a") == shard_key(check, CONFIG, "b"), (
        "evaluation items that are compared only"
    )
