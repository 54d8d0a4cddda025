"""A model that would be computed wrongly ends the command before an engine starts; one that is
right is asked once a run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from bimode.learner.packing_check import PackingCheck
from bimode.renderer import Renderer, load_model, save_model
from bimode.storage.run_dir import digest_without_weights
from pipelines import model_check
from pipelines.model_check import check_on_learner_node, ensure_model_is_trainable
from tests.model_types import tiny_text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each check that is made; every model passes."""
    calls: list[dict[str, Any]] = []

    def check(path: Path, dtype: str, max_model_len: int, options: dict[str, Any]) -> PackingCheck:
        calls.append(options)
        return PackingCheck(32, 1e-6)

    monkeypatch.setattr(model_check, "check_on_learner_node", check)
    monkeypatch.setattr(model_check, "node_resources", lambda: [{"CPU": 4.0}])
    return calls


def recipe(**model: Any) -> Recipe:
    return Recipe.of(
        {"name": "t", "cluster": {"learner_cpus": 2.0}, "model": {"base": "unused", **model}}
    )


def test_it_is_paid_once_a_run(
    asked: list[dict[str, Any]], text_model: Path, tmp_path: Path
) -> None:
    """And again for another precision, length, code or architecture, but not for other weights."""
    run, model = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    shutil.copytree(text_model, model)
    ensure_model_is_trainable("anneal", recipe(), model, run, {"torch": "1"})
    (model / "model.safetensors").write_bytes(b"other weights")
    ensure_model_is_trainable("bpo", recipe(), model, run, {"torch": "1"})
    assert [options["num_cpus"] for options in asked] == [2.0]
    assert json.loads((run / "manifest.json").read_text())["packing_check"]["float32"] == 1e-6
    ensure_model_is_trainable("bpo", recipe(), model, run, {"torch": "2"})
    ensure_model_is_trainable("bpo", recipe(dtype="bfloat16"), model, run, {"torch": "2"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"logit_scale": 0.5}))
    ensure_model_is_trainable("bpo", recipe(dtype="bfloat16"), model, run, {"torch": "2"})
    assert len(asked) == 4


def test_a_learner_that_no_node_has_room_for_is_not_waited_for(
    asked: list[dict[str, Any]], text_model: Path, tmp_path: Path
) -> None:
    """Curation comes first in a run, and needs no learner itself."""
    wanted = Recipe.of(
        {"name": "t", "cluster": {"learner_cpus": 99.0}, "model": {"base": "unused"}}
    )
    with pytest.raises(ConfigError, match="anneal"):
        ensure_model_is_trainable("curate", wanted, text_model, tmp_path, {})
    assert asked == []


def test_saving_a_model_anew_asks_nothing_anew(text_model: Path, tmp_path: Path) -> None:
    """As annealing does with the base."""
    save_model(load_model(text_model, torch.float32), tmp_path)
    Renderer(text_model).processor.save_pretrained(tmp_path)
    assert digest_without_weights(tmp_path) == digest_without_weights(text_model)


@pytest.mark.ray
def test_what_is_refused_is_one_line_from_the_learners_node(
    ray_local: Any, text_model: Path, tmp_path: Path
) -> None:
    model = tiny_text("lfm2", vocab_size=len(Renderer(text_model).tokenizer))
    model.save_pretrained(tmp_path)
    Renderer(text_model).processor.save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as error:
        check_on_learner_node(tmp_path, "float32", 128, {"num_cpus": 1})
    assert error.type is ConfigError and "\n" not in str(error.value)
    assert str(error.value).startswith("model.base = lfm2: has layers of type conv")
    assert check_on_learner_node(text_model, "float32", 128, {"num_cpus": 1}).float32 < 1e-5
