"""Tiny models of every type of transformers that can be made from its config, and how packing does
on each.

`python -m tests.model_types > docs/models.md` writes the page whose table
tests/bimode/test_packing_check.py holds.
"""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bimode.errors import ConfigError
from bimode.learner.packing_check import (
    LIMIT,
    Probe,
    _response,
    check_packing,
    compare,
    refuse_known,
)

VOCABULARY = 64
MODEL_LEN = 64  # of the run that is imagined: longer than the windows below
LARGEST = 3_000_000  # parameters; a type that cannot be made smaller is left out
KEYS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "attention_chunk_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
    "num_experts": 2,
    "num_local_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "query_pre_attn_scalar": 16,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_inner": 96,
    "n_positions": 256,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "num_key_value_groups": 2,
    "attention_window_size": 16,
    "lru_width": 64,
    "rotary_dim": 8,
}
LATENT = {"num_key_value_heads": 4}  # latent attention has a key for every query head
SPECIAL: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "logits_scaling": 8.0,
    },
    "cohere": {"logit_scale": 0.0625},
    "hyperclovax": {"logits_scaling": 0.25},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "gemma2": {"attn_logit_softcapping": None, "final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
} | dict.fromkeys(
    (
        "axk1",
        "axk2",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "minicpm3",
        "youtu",
    ),
    LATENT,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`difference` in nats between packed and alone, or why the type is refused."""

    model_type: str
    difference: float | None
    reason: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it is computed, and rightly."""
        return self.difference is not None and self.difference <= LIMIT


def text_types() -> list[str]:
    """Types of text models, in alphabetical order."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_text(model_type: str, **more: Any) -> Any | None:
    """A random tiny model of a type in float32; None where its config does not take the usual keys
    or is too large.
    """
    warnings.filterwarnings("ignore")
    config_class = transformers.CONFIG_MAPPING[model_type]
    known = inspect.signature(config_class.__init__).parameters
    wanted = {key: value for key, value in KEYS.items() if key in known}
    try:
        config = config_class(**{**wanted, **SPECIAL.get(model_type, {}), **more})
        if not more:  # some rotary embeddings cannot be made there
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
            if sum(p.numel() for p in model.parameters()) > LARGEST:
                return None
        torch.manual_seed(1)
        return spread(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    except Exception:  # what transformers itself cannot make is not ours to judge
        return None


def spread(model: Any) -> Any:
    """`model` with matrices far from zero, so that no part of it is without effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
    return model.eval()


def text_probes(vocabulary: int = VOCABULARY) -> list[Probe]:
    """Two prompts with two and one response, the longest sequence over every window."""
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(3, vocabulary), k=length))

    first, second = ids(9), ids(12)
    return [
        Probe((_response(first, ids(5)), _response(first, ids(7)))),
        Probe((_response(second, ids(16)),)),
    ]


def judge(model: Any, probes: list[Probe]) -> Verdict:
    """What a run would say of `model`."""
    name = model.config.model_type
    try:
        refuse_known(model.config, MODEL_LEN)
        return Verdict(name, difference(model, probes))
    except ConfigError as error:
        return Verdict(name, None, error.fix)


def difference(model: Any, probes: list[Probe]) -> float:
    """Largest difference of a log-probability between packed and alone, nats."""
    packed_N, alone_N = compare(model, probes)
    return float((packed_N - alone_N).abs().max())


PAGE = """\
# Models: what is trained rightly, and what is refused

Look up `model_type` in your model's `config.json`. Qwen3 is `qwen3`, Gemma 2 `gemma2`, Granite 3
`granite` or `granitemoe`: right. Phi-3 with 4k positions is `phi3`, right; with 128k (`longrope`)
it is refused. Image-text models are those of the families below, and no others. The models that
were compared are random and tiny; a text type that is not listed is compared when a run begins.

A run compares packed sequences with single ones before it trains
(`bimode/learner/packing_check.py`): above {limit}
nats in float32 the model is refused with the number, in bfloat16 above twice its own
rounding. So a type that is missing below is not accepted by guess: the run finds out. This page
says what is known of every type of transformers {version} that could be made tiny from its config,
with windows shorter than its sequences and scales away from 1.

A type that is right below is refused for some settings: layers that are not attention, positions
that are scaled by the longest sequence (`longrope`, `dynamic`) where a sequence may be longer than
they were made for.

A difference is the largest of a log-probability between a packed line and each sequence alone, in
nats. The page is made by `python -m tests.model_types > docs/models.md`, and a test holds it to the
code.

## Image-text families

| `model_type` | models | packed against alone |
|---|---|---|
{families}

The difference is that of three prompts with two, one and no image of unlike sizes, from the
family's own processor. Of `qwen3_vl`, `internvl` and `smolvlm` the suite also compares the
rollout engine (vLLM's native class) with the learner, at load and after two live weight updates:
at most 1e-4 nats (`tests/actors/test_families.py`). The smoke recipe ran from curation to
evaluation with a tiny model of each ([experiments](experiments/2026-12-01.md)). No published
checkpoint was at hand.

What a family is, is one record in `bimode/models/families.py`: how an image is written in a prompt,
which tensors the model wants, how those of several prompts are joined, what the engine needs. A
model with M-RoPE gets four positions a token (`positions` there). Video and audio, several turns,
mixtures of experts with images, Gemma 3 and models with code of their own are not supported.

The base's chat template is replaced by ours (ChatML with `thinking_mode`), and missing tokens are
added.

What the packing check says of some types by their config alone, without a family:

| type | difference | or refused, because it |
|---|---|---|
{images}

## Text: right

| type | difference |
|---|---|
{right}

## Text: refused

| type | because it |
|---|---|
{refused}

Not made here, since their config does not take the usual keys or makes a large model: {missing}.
"""


def verdicts() -> tuple[list[Verdict], list[Verdict], list[str]]:
    """Of image-text types, of text types, and the text types that could not be made."""
    from tests.image_types import image_configs, image_probes, tiny_image_text

    images = [judge(tiny_image_text(name), image_probes(name)) for name in image_configs()]
    texts, missing = [], []
    for name in text_types():
        if (model := tiny_text(name)) is None:
            missing.append(name)
        else:
            texts.append(judge(model, text_probes()))
    return images, texts, missing


MODELS = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "internvl": "InternVL3 and 3.5, the `-hf` checkpoints",
    "glm4v": "GLM-4.1V",
    "llava_next": "LLaVA-NeXT (1.6)",
    "llava_onevision": "LLaVA-OneVision",
    "smolvlm": "SmolVLM2",
    "idefics3": "Idefics3",
    "llava": "LLaVA 1.5, and the demo's model",
}


def family_rows(folder: Path) -> list[str]:
    """A row of the table for each family."""
    from bimode.models.families import FAMILIES, TEXT
    from bimode.models.prepare_model import NEW_TINY_LLAVA, prepare_base
    from tests.tiny_families import write

    assert {*MODELS, TEXT} == FAMILIES.keys()
    rows = []
    for name, models in MODELS.items():
        made = NEW_TINY_LLAVA if name == "llava" else str(write(name, folder / name))
        base, _ = prepare_base(made, folder / f"{name}-base", 0)
        found = check_packing(base, "float32", 256).float32
        rows.append(f"| `{name}` | {models} | {found:.0e} |")
    return rows


def page() -> str:
    """docs/models.md."""
    images, texts, missing = verdicts()
    with TemporaryDirectory() as folder:
        families = family_rows(Path(folder))

    def number(verdict: Verdict) -> str:
        return "" if verdict.difference is None else f"{verdict.difference:.0e}"

    def short(verdict: Verdict) -> str:
        return verdict.reason.partition(";")[0]

    return PAGE.format(
        limit=LIMIT,
        version=transformers.__version__,
        families="\n".join(families),
        images="\n".join(f"| {v.model_type} | {number(v)} | {short(v)} |" for v in images),
        right="\n".join(f"| {v.model_type} | {number(v)} |" for v in texts if v.is_right),
        refused="\n".join(f"| {v.model_type} | {short(v)} |" for v in texts if not v.is_right),
        missing=", ".join(missing),
    )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    with redirect_stdout(sys.stderr):  # DeepSpeed logs there
        text = page()
    print(text, end="")
