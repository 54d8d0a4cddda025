"""What a packed line computes rightly is trained; what it does not is refused by name or number,
never accepted silently.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from bimode.errors import ConfigError
from bimode.learner import packing_check
from bimode.learner.packing_check import LIMIT, check_packing, compare, known_reason, refuse_known
from bimode.learner.policy import LogitTransform
from tests.image_types import image_configs, image_probes, tiny_image_text
from tests.model_types import (
    difference,
    judge,
    text_probes,
    tiny_text,
    verdicts,
)

REPO = Path(__file__).resolve().parents[2]
RIGHT = [
    "cohere",
    "cohere2",
    "deepseek_v3",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "granitemoe",
    "hyperclovax",
    "llama",
    "minicpm3",
    "mistral",
    "nanochat",
    "olmo2",
    "phi3",
    "qwen3",
    "qwen3_moe",
    "smollm3",
]
REFUSED = {
    "granitemoehybrid": "layers of type linear_attention",
    "lfm2": "layers of type conv",
    "llama4_text": "windows of 16 tokens",
    "minimax": "layers of type linear_attention",
    "phimoe": "windows of 8 tokens",
    "recurrent_gemma": "recurrent layers",
    "zaya": "a convolution in its attention",
    "gpt_oss": "sinks or a cap in its attention",
    "doge": "an attention mask of its own",
    "nemotron": "does not pass keyword arguments on to its attention",
    "gpt2": "no layers in `.model`",
}


@pytest.mark.parametrize("name", RIGHT)
def test_types_that_are_right(name: str) -> None:
    """Scales and caps after the head, windows, experts and latent attention included."""
    assert difference(tiny_text(name), text_probes()) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_types_that_are_refused_by_name(name: str) -> None:
    verdict = judge(tiny_text(name), text_probes())
    assert verdict.difference is None and REFUSED[name] in verdict.reason


@pytest.mark.parametrize("name", ["cohere", "granite", "gemma3_text", "hyperclovax"])
def test_a_scale_or_cap_that_is_left_out_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogitTransform, "of", lambda config: LogitTransform())
    assert difference(tiny_text(name), text_probes()) > 1e-2


@pytest.mark.parametrize(
    "name",
    ["lfm2", "granitemoehybrid", "minimax", "recurrent_gemma", "zaya", "phimoe", "llama4_text"],
)
def test_what_is_refused_by_name_would_be_wrong(name: str) -> None:
    """The table refuses nothing that is right: a convolution that runs on shows, and so do the
    others.
    """
    assert difference(tiny_text(name), text_probes()) > 1e-2


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("granitemoehybrid", {"layer_types": ["attention"] * 4}),
        ("lfm2", {"layer_types": ["full_attention"] * 4}),
        ("llama4_text", {"attention_chunk_size": 256}),  # its positions: no sequence is longer
        ("phimoe", {"sliding_window": None}),
    ],
)
def test_a_type_is_refused_for_its_settings_alone(name: str, more: dict[str, object]) -> None:
    """Neighbors of what is refused: the same type without the layers, or with a window that
    sequences do not reach.
    """
    verdict = judge(tiny_text(name, **more), text_probes())
    assert verdict.is_right, verdict


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("name", "rope", "more"),
    [
        ("phi3", LONGROPE, {"original_max_position_embeddings": 16}),
        ("llama", DYNAMIC, {"max_position_embeddings": 16}),
    ],
)
def test_positions_that_are_scaled_by_the_longest_sequence(
    name: str, rope: dict[str, object], more: dict[str, int]
) -> None:
    """A short sequence beside a long one gets the long one's frequencies; a table of them for all
    lengths is right.
    """
    model = tiny_text(name, rope_parameters=rope, **more)
    assert difference(model, text_probes()) > 1e-2
    verdict = judge(model, text_probes())
    assert (
        verdict.difference is None
        and "scales its positions by the longest sequence" in verdict.reason
    )
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    assert judge(tiny_text("llama", rope_parameters=linear), text_probes()).is_right


@pytest.mark.parametrize("name", image_configs())
def test_image_text_types(name: str) -> None:
    """Prompts with two, one and no image in one line."""
    verdict = judge(tiny_image_text(name), image_probes(name))
    assert verdict.is_right is (name in ("llava", "internvl", "idefics3")), verdict
    assert verdict.is_right or verdict.reason


@pytest.mark.parametrize(
    ("name", "right"), [("paligemma", False), ("lfm2_vl", False), ("llava", True)]
)
def test_image_text_types_are_refused_for_a_reason(name: str, right: bool) -> None:
    probes = image_probes(name, (1, 1))
    if name == "lfm2_vl":
        shapes = (
            ("spatial_shapes", torch.tensor([[4, 4]])),
            ("pixel_attention_mask", torch.ones(1, 16, dtype=torch.long)),
        )
        pixels = (("pixel_values", torch.randn(1, 16, 588)),)
        probes = [replace(probe, images=pixels + shapes) for probe in probes]
    found = difference(tiny_image_text(name), probes)
    assert found < 1e-4 if right else found > 1e-2


def test_the_page_about_models_is_what_the_code_finds() -> None:
    """docs/models.md: no type has moved from right to refused or back."""
    text = (REPO / "docs" / "models.md").read_text()
    images, right, refused = (
        part.split("Not made")[0] for part in re.split(r"\n## .*\n", text)[1:]
    )
    assert re.findall(r"\| ([\w-]+) \| \d", right)[:3] == ["afmoe", "apertus", "arcee"]
    named = set(re.findall(r"^\| ([\w-]+) \|", refused, re.M))
    assert {"lfm2", "recurrent_gemma", "zaya"} <= named and not named & set(RIGHT)
    assert set(re.findall(r"^\| (\w+) \|", images, re.M)) - {"type"} == set(image_configs())


@pytest.mark.slow
def test_every_type_is_right_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Over 100 types: none is silently wrong, and docs/models.md says of each what is found."""
    transformers.logging.set_verbosity_error()
    images, texts, _ = verdicts()
    page = (REPO / "docs" / "models.md").read_text()
    for verdict in (*images, *texts):
        assert verdict.is_right or verdict.reason
        row = next(
            line for line in page.splitlines() if line.startswith(f"| {verdict.model_type} |")
        )
        assert ("e-0" in row.split("|")[2]) is verdict.is_right, row
    assert sum(verdict.is_right for verdict in texts) >= 60


def test_a_model_in_its_directory(text_model: Path, tiny_llava: Path) -> None:
    """As a run asks it, by the model's own tokenizer and processor; in bfloat16 too."""
    for path in (text_model, tiny_llava):
        found = check_packing(path, "float32", 128)
        assert found.float32 < 1e-5 and found.bfloat16 == 0.0 and found.tokens == 32
        assert 0.0 < check_packing(path, "bfloat16", 128).bfloat16 < 0.1


def test_a_window_that_the_run_reaches_is_compared(text_model: Path, tmp_path: Path) -> None:
    """A sequence longer than the window is among those compared, or a window would never show."""
    config = transformers.AutoConfig.from_pretrained(text_model)
    config.sliding_window = 64
    assert (
        packing_check.length_to_probe(config, 128) == 80
        and packing_check.length_to_probe(config, 64) == 0
    )
    probes = packing_check.make_probes(packing_check.Renderer(text_model), 80)
    assert (
        max(len(s.prompt_ids) + len(s.token_ids_T) for probe in probes for s in probe.responses)
        == 80
    )


def test_a_model_that_nobody_knew_is_refused_by_the_number(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_text("lfm2", vocab_size=len(packing_check.Renderer(text_model).tokenizer))
    path = tmp_path / "model"
    packing_check.Renderer(text_model).processor.save_pretrained(path)
    model.save_pretrained(path)
    with pytest.raises(ConfigError, match="layers of type conv"):
        check_packing(path, "float32", 128)
    monkeypatch.setattr(packing_check, "known_reason", lambda *_: "")
    with pytest.raises(ConfigError, match=r"differ by 0?\.?\d+.* nats"):
        check_packing(path, "float32", 128)


def test_what_is_not_a_number_is_refused(text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = torch.full((3,), float("nan"))
    monkeypatch.setattr(packing_check, "compare", lambda *_: (nan, nan))
    with pytest.raises(ConfigError, match="differ by nan nats"):
        check_packing(text_model, "float32", 128)


def test_bfloat16_is_held_to_its_own_rounding(
    text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right in float32 and off by more than twice its rounding in bfloat16, as where a part is cast
    too early.
    """
    real = compare
    monkeypatch.setattr(
        packing_check,
        "compare",
        lambda model, *rest: (lambda got: (got[0] + (model.dtype is torch.bfloat16), got[1]))(
            real(model, *rest)
        ),
    )
    assert check_packing(text_model, "float32", 128).float32 < LIMIT
    with pytest.raises(ConfigError, match="in bfloat16 are off by 1 nats on average"):
        check_packing(text_model, "bfloat16", 128)


def test_known_reasons_need_no_weights(tmp_path: Path) -> None:
    config = {"model_type": "recurrent_gemma"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = transformers.AutoConfig.from_pretrained(tmp_path)
    assert known_reason(found, 128).startswith("has recurrent layers")
    with pytest.raises(ConfigError, match=r"model\.base = recurrent_gemma"):
        refuse_known(found, 128)
