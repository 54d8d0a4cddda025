"""Families of image-text models: a packed tree gives what each sequence gives alone, and what would
break that is seen (negative controls).
"""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from actors.learner.engines import freeze
from actors.learner.learner import ImageCache
from bimode.errors import ConfigError
from bimode.inputs.pictures import open_picture, shown_size
from bimode.learner import packing, packing_check
from bimode.learner.packing_check import check_packing, compare, make_probes
from bimode.learner.policy import Policy
from bimode.models.families import FAMILIES, Part, family_of
from bimode.models.prepare_model import check_pixels, prepare_base
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


@pytest.mark.parametrize("name", MAKERS)
def test_every_parameter_belongs_to_one_of_three_parts(name: str, models: dict[str, Path]) -> None:
    names = [key for key, _ in load_model(models[name], torch.float32).named_parameters()]
    parts = {key: FAMILIES[name].part_of(key) for key in names}
    assert set(parts.values()) == {"vision", "projector", "language"}
    assert parts[next(key for key in names if "embed_tokens" in key)] == "language"
    assert {part for key, part in parts.items() if "q_norm" in key} <= {"language"}


@pytest.mark.parametrize("part", ["vision", "projector", "language"])
def test_only_the_named_part_is_trained(part: Part, models: dict[str, Path]) -> None:
    policy = Policy(load_model(models["qwen3_vl"], torch.float32))
    freeze(policy, [part])
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert trained and {FAMILIES["qwen3_vl"].part_of(name) for name in trained} == {part}


def test_a_text_model_has_no_tower_to_train(text_model: Path) -> None:
    policy = Policy(load_model(text_model, torch.float32))
    with pytest.raises(ConfigError, match=r"learner\.train = vision, projector: .* no such part"):
        freeze(policy, ["vision", "projector"])


@pytest.mark.parametrize(
    ("name", "pixels", "tokens"), [("qwen3_vl", 8 * 1024, 8), ("internvl", 2 * 56 * 56, 12)]
)
def test_images_are_bounded_for_learner_and_engine_alike(
    name: str, pixels: int, tokens: int, tmp_path: Path
) -> None:
    """The bound is in the processor's files, which both sides read; another size is a copy."""
    model = write(name, tmp_path / "model")
    base, added = prepare_base(str(model), tmp_path / "base", 0, max_pixels=pixels)
    assert base == tmp_path / "base" and not added
    picture = packing_check.noise_png(random.Random(0), 400, 300)
    ids = Renderer(base).encode_prompt("what ?", [picture])
    assert 0 < ids.count(Renderer(base).config.image_token_id) <= tokens
    unbounded, _ = prepare_base(str(model), tmp_path / "unbounded", 0)
    whole = Renderer(unbounded).encode_prompt("what ?", [picture])
    assert whole.count(Renderer(base).config.image_token_id) > tokens


def test_a_fixed_size_has_no_bound(tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.max_pixels = 100: .* has a fixed size"):
        check_pixels(tiny_llava, 100)


def test_processed_images_are_kept_up_to_a_number_of_bytes() -> None:
    asked: list[tuple[bytes, ...]] = []

    def encode(images: Any) -> Any:
        asked.append(images)
        return (("pixel_values", torch.zeros(25)),)  # 100 bytes

    cache = ImageCache(encode, 250)
    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert cache((name,))[0][1].shape == (25,)
    assert asked == [(b"a",), (b"b",), (b"c",), (b"b",)]  # b was the oldest when c came
    assert ImageCache(encode, 10)((b"large",))  # one that is larger than all is not lost


@pytest.mark.parametrize("name", [name for name in MAKERS if FAMILIES[name].from_sizes])
def test_ids_from_sizes_are_those_of_the_processor(name: str, models: dict[str, Path]) -> None:
    """Also of a picture that EXIF turns on its side; the pixels are never looked at."""
    renderer, draw = Renderer(models[name]), random.Random(0)
    for _ in range(10):
        sizes = [(draw.randint(30, 400), draw.randint(30, 400)) for _ in range(2)]
        text = renderer.prompt_text("which is larger ?", 2)
        pictures = [Image.new("RGB", size) for size in sizes]
        whole = renderer.family.expanded_ids(renderer.processor, text, pictures)
        assert renderer.family.ids_from_sizes(renderer.processor, text, sizes) == whole
    turned = Image.Exif()
    turned[Base.Orientation] = 6
    out = io.BytesIO()
    Image.new("RGB", (300, 60)).save(out, "JPEG", exif=turned)
    shown = open_picture(out.getvalue())
    assert shown_size(out.getvalue()) == shown.size == (60, 300)
