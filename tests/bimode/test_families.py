"""Families of image-text models: a packed tree gives what each sequence gives alone, and what would
break that is seen (negative controls).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimode.errors import ConfigError
from bimode.learner import packing, packing_check
from bimode.learner.packing_check import check_packing, compare, make_probes
from bimode.models.families import FAMILIES, family_of
from bimode.models.prepare_model import prepare_base
from bimode.models.template import chat_template
from bimode.renderer import Renderer, load_model
from tests.tiny_families import MAKERS, write

EQUAL, DIFFERENT = 1e-4, 0.1  # nats


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of each family, as a run would use it."""
    root = tmp_path_factory.mktemp("families")
    made = {name: write(name, root / name) for name in MAKERS}
    return {
        name: prepare_base(str(path), root / f"{name}-base", 0)[0] for name, path in made.items()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_a_packed_tree_is_each_sequence_alone(name: str, models: dict[str, Path]) -> None:
    assert check_packing(models[name], "float32", 1024).float32 < EQUAL


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "smolvlm"])
def test_so_are_the_gradients(name: str, models: dict[str, Path]) -> None:
    model = load_model(models[name], torch.float32).eval()
    renderer = Renderer(models[name])
    probes = make_probes(renderer, 0)
    trees = [probe.responses for probe in probes]
    images = [probe.images for probe in probes]
    whole = packing.pack(trees, images, renderer.family, model.model)
    single = [[response] for tree in trees for response in tree]
    repeated = [probe.images for probe in probes for _ in probe.responses]
    alone = packing.pack(single, repeated, renderer.family, model.model)
    policy = packing_check.Policy(model)
    found = []
    for batch in (whole, alone):
        model.zero_grad()
        policy(batch)[0].sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], rtol=1e-3, atol=1e-3)


def gap(path: Path) -> float:
    model = load_model(path, torch.float32).eval()
    renderer = Renderer(path)
    packed_N, alone_N = compare(model, make_probes(renderer, 0), renderer.family)
    return float((packed_N - alone_N).abs().max())


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_positions_along_one_axis_are_seen(
    name: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = packing.positions
    monkeypatch.setattr(packing, "positions", lambda _, *rest: plain(None, *rest))
    assert gap(models[name]) > DIFFERENT


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "smolvlm"])
def test_patches_in_another_order_are_seen(
    name: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = packing_check.pack

    def reversed_(*given: Any) -> Any:
        batch = pack(*given)
        parts = zip(batch.vision_names, batch.vision, strict=True)
        axis = 1 if name == "smolvlm" else 0
        vision = (part.flip(axis) if key == "pixel_values" else part for key, part in parts)
        return replace(batch, vision=tuple(vision))

    monkeypatch.setattr(packing_check, "pack", reversed_)
    assert gap(models[name]) > DIFFERENT


def test_features_that_skip_layers_are_seen(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen3-VL adds features of its tower to early layers (DeepStack)."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

    alone = packing_check._alone

    def without(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Qwen3VLTextModel, "_deepstack_process", lambda _, hidden, *rest: hidden)
            return alone(*given)

    monkeypatch.setattr(packing_check, "_alone", without)
    assert gap(models["qwen3_vl"]) > DIFFERENT


@pytest.mark.parametrize("name", MAKERS)
def test_a_prompt_holds_an_image_as_its_family_writes_it(
    name: str, models: dict[str, Path]
) -> None:
    renderer = Renderer(models[name])
    ids = renderer.encode_unexpanded("what is it ?", 2)
    placeholder = renderer.config.image_token_id
    assert ids.count(placeholder) == 2 and placeholder in renderer.placeholder_ids
    assert renderer.tokenizer.chat_template == chat_template(FAMILIES[name].image)


def test_an_unknown_family_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="qwen3_vl") as refused:
        family_of(Path("model"), "kimi_k25", is_pictured=True)
    assert "kimi_k25" in str(refused.value)
    assert family_of(Path("model"), "anything", is_pictured=False) is FAMILIES["text"]
