"""Whether `gpu.toml` fits the GPUs that it names: the learner's memory at real shapes.

Passes run on the meta device, through the project's own packing, policy and head. Two things are
stood in for: attention keeps what a flash kernel keeps, and ZeRO's states are arithmetic.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from actors.learner.engines import BUCKET_ELEMENTS
from bimode.config.common import LearnerConfig
from bimode.config.recipe import Recipe
from bimode.learner import attention
from bimode.learner.packing import pack
from bimode.learner.policy import Policy
from bimode.modes import Mode
from bimode.records import TrainingSample

RECIPE = Path(__file__).resolve().parents[2] / "pipelines" / "recipes" / "gpu.toml"
GPU = 80e9
SHARE = 0.9  # of a GPU; the rest is CUDA's and NCCL's own, and fragments
VOCABULARY = 151_936
# Bytes a parameter: bfloat16 weights; in float32 weights, AdamW's moments, the gradient's sum.
STATES = 2 + 4 + 8 + 4
LIVE = 2 * 1_000_000_000  # bytes that ZeRO-3 holds whole at a time (stage3_max_live_parameters)
BUCKET = 2 * BUCKET_ELEMENTS  # bytes of gradients on their way to other ranks
SHAPES = {
    "Qwen3-4B": {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "Qwen3-8B": {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
}
LAYERS = 36
KINDS = ("long responses", "long prompts")
OLD = LearnerConfig(workers=4, zero_stage=3, micro_tokens=4096)  # what the recipe had


class Flash(torch.autograd.Function):
    """Keeps what a flash kernel keeps: its inputs, the output and a number a query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class Peak(TorchDispatchMode):
    """The most bytes that tensors which are made in the block have at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return made

    def ignore(self, tensors: Iterator[Tensor]) -> None:
        """They were there before."""
        self.known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, nbytes: int) -> None:
        self.known.discard(key)
        self.live -= nbytes


@pytest.fixture(autouse=True)
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = "scaled_dot_product_attention"
    monkeypatch.setattr(attention, kernel, lambda q, k, v, **_: Flash.apply(q, k, v))
    monkeypatch.setattr(attention, "seen", lambda *_: None)


def model_of(shape: str, layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        **SHAPES[shape],
    )
    with torch.device("meta"):
        return Qwen3ForCausalLM(config).to(torch.bfloat16)


def num_parameters(shape: str) -> int:
    one, two = (sum(p.numel() for p in model_of(shape, layers).parameters()) for layers in (1, 2))
    return one + (LAYERS - 1) * (two - one)


def sample(prompt: int, response: int) -> TrainingSample:
    return TrainingSample(
        prompt_ids=(1,) * prompt,
        token_ids_T=(5,) * response,
        loss_mask_T=(1.0,) * response,
        advantages_T=(1.0,) * response,
        behavior_logprobs_T=(-1.0,) * response,
        images=(),
        mode=Mode.AUTO,
        origin="",
        versions_T=(0,) * response,
    )


def trees(micro_tokens: int) -> dict[str, list[list[TrainingSample]]]:
    """The largest micro-batches: of long responses, and of short ones to long prompts."""
    long_, short = 700 + 3 * 1100, 1700 + 16 * 147
    return {
        KINDS[0]: [[sample(700, 1100)] * 3] * (micro_tokens // long_),
        KINDS[1]: [[sample(1700, 147)] * 16] * (micro_tokens // short),
    }


def peak(shape: str, layers: int, learner: LearnerConfig, kind: str, trains: bool) -> int:
    """Bytes of a pass beside the model, as `measure` finds them."""
    micro_tokens, head_chunk = learner.micro_tokens, learner.head_chunk
    is_lean = learner.gradient_checkpointing
    return measure(shape, layers, micro_tokens, head_chunk, is_lean, kind, trains)


@cache
def measure(
    shape: str,
    layers: int,
    micro_tokens: int,
    head_chunk: int,
    is_lean: bool,
    kind: str,
    trains: bool,
) -> int:
    """The most bytes of forward, and of backward if it `trains`; gradients leave at once."""
    model = model_of(shape, layers)
    if is_lean:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Policy(model, head_chunk).train()
    parts = trees(micro_tokens)[kind]
    for parameter in policy.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    batch = pack(parts, [()] * len(parts)).to(torch.device("meta"))
    counted = Peak()
    counted.ignore(iter([*policy.parameters(), *policy.buffers()]))
    with counted, torch.set_grad_enabled(trains):
        logprobs_N, _ = policy(batch)
        if trains:
            logprobs_N.sum().backward()
    return counted.most


def needed(shape: str, learner: LearnerConfig, with_reference: bool) -> float:
    """Bytes of a rank at its most: ZeRO-3's states, and the worst pass of policy or reference."""
    parameters = num_parameters(shape)
    reference = 2 * parameters if with_reference else 0
    most = 0.0
    for kind in KINDS:
        one, two = (peak(shape, layers, learner, kind, trains=True) for layers in (1, 2))
        training = one + (LAYERS - 1) * (two - one) + LIVE + BUCKET
        looking_back = reference + peak(shape, 1, learner, kind, trains=False)
        if not learner.reference_offload:
            training += reference
        most = max(most, training, looking_back)
    return STATES * parameters / learner.workers + most


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_gpu_recipe_trains_fits(shape: str) -> None:
    """Keys, head, activations, reference and states together."""
    recipe = Recipe.load(RECIPE)
    assert 4e9 < num_parameters(shape) < 8.3e9
    assert needed(shape, recipe.anneal.learner, with_reference=False) < SHARE * GPU
    assert needed(shape, recipe.bpo.learner, with_reference=True) < SHARE * GPU


def test_what_the_recipe_had_before_does_not_fit() -> None:
    """95 GB for 8B: activations of every layer, all logits at once, the reference beside them."""
    assert needed("Qwen3-8B", OLD, with_reference=True) > GPU


@pytest.mark.parametrize("name", ["qwen3-vl", "qwen2_5-vl", "internvl3_5"])
def test_recipes_of_families_have_the_learner_that_was_measured(name: str) -> None:
    """So that what fits above fits there, but for the vision tower, which comes on top."""
    measured, recipe = Recipe.load(RECIPE), Recipe.load(RECIPE.with_name(f"{name}.toml"))
    assert recipe.bpo.learner == measured.bpo.learner
    assert recipe.anneal.learner == measured.anneal.learner
    assert recipe.model.max_pixels and recipe.transport == "nccl"
