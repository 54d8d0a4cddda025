"""Weights into live vLLM: after a sync its log-probabilities are Hugging Face's, and a skipped step
is seen.

The same prompt and image are replayed before and after each sync, so that a stale prefix or image
cache shows.
"""

from __future__ import annotations

import asyncio
import copy
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.core_model_loading import revert_weight_conversion

from bimode.errors import CorruptWeightsError, StaleWeightsError
from bimode.learner.packing import pack
from bimode.learner.policy import Policy
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt, TrainingSample
from bimode.renderer import Renderer, load_model
from bimode.storage.weights import WeightBucket, as_array
from tests.actors.damage import share_weights
from tests.actors.loops import new_learner

pytestmark = pytest.mark.ray

EQUAL, DIFFERENT = 1e-3, 1e-2
VISION, TEXT, ALL = "vision_tower", "language_model", ""
versions = itertools.count(1)


def prompt(images: tuple[bytes, ...]) -> Prompt:
    return Prompt(
        id="p",
        question=(
            "digits : read the strip as one number . what is its remainder when divided by 7 ?"
        ),
        images=images,
        answer="1",
        verifier="exact",
        verifier_args="{}",
        task="t",
        level="easy",
    )


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
        out, "PNG"
    )
    return out.getvalue()


def changed(model: Any, part: str, seed: int = 1) -> Any:
    """A copy whose parameters with `part` in their name are moved by a tenth of a unit and more."""
    other = copy.deepcopy(model)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if part in name:
                p += 0.1 * torch.randn(p.shape, generator=noise)
    return other


def snapshot(model: Any) -> WeightBucket:
    named = dict(model.named_parameters())
    assert "lm_head.weight" not in named or not model.config.tie_word_embeddings
    return WeightBucket.of(
        next(versions), tuple(named), [p.detach().numpy() for p in named.values()]
    )


def gap(model: Any, renderer: Renderer, asked: Prompt, scored: Sequence[Completion]) -> float:
    """Largest difference between the log-probabilities that vLLM sampled with and Hugging Face's of
    the same tokens.
    """
    rows = [
        TrainingSample(
            prompt_ids=c.prompt_ids,
            token_ids_T=c.token_ids_T,
            loss_mask_T=(1.0,) * c.num_tokens,
            advantages_T=(1.0,) * c.num_tokens,
            behavior_logprobs_T=c.logprobs_T,
            images=asked.images,
            mode=c.mode,
            origin=c.prompt_id,
            versions_T=c.versions_T,
        )
        for c in scored
    ]
    vision = [renderer.encode_images(asked.images)] * len(rows)
    batch = pack([[row] for row in rows], vision)
    with torch.no_grad():
        logprobs_N, _ = Policy(model.eval())(batch)
    difference = (logprobs_N - batch.behavior_logprobs_N).abs()
    return float(difference[~batch.behavior_logprobs_N.isnan()].max())


class Bench:
    """One worker, one prompt that is replayed, and the Hugging Face model that the worker started
    from.
    """

    def __init__(self, ray: Any, actor: Any, model_dir: Path, asked: Prompt) -> None:
        self.ray, self.actor, self.asked = ray, actor, asked
        self.renderer = Renderer(model_dir)
        self.first = load_model(model_dir, torch.float32)

    def call(self, verb: str, *args: Any) -> Any:
        return self.ray.get(getattr(self.actor, verb).remote(*args))

    def draw(self) -> list[Completion]:
        """Both forced modes and auto, 3 samples each, always the same requests."""
        results = self.call(
            "generate", [GenerationRequest(self.asked, mode, 3, 1.0, 24, 0) for mode in Mode]
        )
        return [completion for result in results for completion in result.completions]

    def gap(self, model: Any) -> float:
        return gap(model, self.renderer, self.asked, self.draw())

    def start_from(self, model: Any) -> None:
        """Loads `model` and fills the caches under it."""
        self.call("load_weights", snapshot(model))
        assert self.gap(model) < EQUAL


@pytest.fixture(scope="module")
def llava(ray_local: Any, rollout_actor: Any, tiny_llava: Path) -> Bench:
    return Bench(ray_local, rollout_actor, tiny_llava, prompt((picture(),)))


@pytest.fixture(scope="module")
def text(ray_local: Any, text_actor: Any, text_model: Path) -> Bench:
    return Bench(ray_local, text_actor, text_model, prompt(()))


@pytest.mark.parametrize("kind", ["llava", "text"])
def test_after_a_sync_vllm_computes_what_hugging_face_computes(
    kind: str, request: pytest.FixtureRequest
) -> None:
    bench: Bench = request.getfixturevalue(kind)
    other = changed(bench.first, ALL)
    bench.start_from(bench.first)
    before = bench.draw()
    sent = snapshot(other)
    assert bench.call("load_weights", sent) == sent.version == bench.call("version")
    after = bench.draw()
    assert gap(other, bench.renderer, bench.asked, after) < EQUAL
    assert {v for c in after for v in c.versions_T} == {sent.version}

    bench.call("load_weights", snapshot(bench.first))
    again = bench.draw()
    assert [c.token_ids_T for c in again] == [c.token_ids_T for c in before]
    for a, b in zip(again, before, strict=True):
        np.testing.assert_allclose(a.logprobs_T, b.logprobs_T, atol=1e-5)


def leave_experts(_: Any) -> None:
    """In a worker: experts stay as vLLM leaves them after a live update."""
    import actors.weights.receiver

    actors.weights.receiver.repack_experts = lambda model: None


def test_experts_are_packed_again_after_an_update(
    ray_local: Any, moe_actor: Any, moe_model: Path
) -> None:
    """A mixture of experts, whose update goes by the checkpoint's names; and what it is without."""
    bench = Bench(ray_local, moe_actor, moe_model, prompt(()))
    assert bench.gap(bench.first) < EQUAL
    other = changed(bench.first, ALL)

    def send() -> float:
        weights = revert_weight_conversion(
            other, {name: p.detach() for name, p in other.named_parameters()}
        )
        bench.call(
            "load_weights",
            WeightBucket.of(
                next(versions), tuple(weights), [as_array(p) for p in weights.values()]
            ),
        )
        return bench.gap(other)

    assert send() < EQUAL
    ray_local.get(moe_actor.__ray_call__.remote(leave_experts))
    assert send() > DIFFERENT


def test_the_check_fails_when_the_sync_is_skipped(llava: Bench) -> None:
    llava.start_from(llava.first)
    assert llava.gap(changed(llava.first, ALL)) > DIFFERENT


@pytest.mark.parametrize(
    ("part", "done", "skipped"),
    [
        (TEXT, "reset_encoder_cache", "reset_prefix_cache"),
        (VISION, "reset_prefix_cache", "reset_encoder_cache"),
    ],
    ids=["prefix", "encoder"],
)
def test_the_check_fails_when_a_cache_reset_is_skipped(
    llava: Bench, part: str, done: str, skipped: str
) -> None:
    llava.start_from(llava.first)
    other = changed(llava.first, part)
    llava.call("_transfer", snapshot(other))
    llava.call(done)
    assert llava.gap(other) > DIFFERENT
    llava.call(done)  # the draw has filled it again, from what was stale
    llava.call(skipped)
    assert llava.gap(other) < EQUAL


def test_names_as_save_pretrained_writes_them_load_too(llava: Bench, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    other = changed(llava.first, ALL, seed=2)
    other.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) != {
        name for name, _ in other.named_parameters()
    }  # transformers 5 renames on saving
    llava.start_from(llava.first)
    llava.call("load_weights", WeightBucket.of(next(versions), tuple(saved), tuple(saved.values())))
    assert llava.gap(other) < EQUAL


def test_weights_in_bfloat16_arrive_as_they_are(llava: Bench) -> None:
    other = changed(llava.first, ALL)
    llava.start_from(llava.first)
    half = {name: p.detach().bfloat16() for name, p in other.named_parameters()}
    llava.call(
        "load_weights",
        WeightBucket.of(next(versions), tuple(half), [as_array(p) for p in half.values()]),
    )
    assert llava.gap(other) > EQUAL
    other.load_state_dict(half, strict=False)
    assert llava.gap(other) < EQUAL


def test_older_weights_are_refused(llava: Bench) -> None:
    old = snapshot(changed(llava.first, ALL))
    llava.start_from(llava.first)
    with pytest.raises(StaleWeightsError, match=f"was sent {old.version}"):
        llava.call("load_weights", old)
    assert llava.gap(llava.first) < EQUAL


def test_weights_that_arrive_damaged_are_refused_before_any_is_live(llava: Bench) -> None:
    llava.start_from(llava.first)
    whole = snapshot(changed(llava.first, ALL))
    arrays = [array.copy() for array in whole.arrays]
    arrays[-1].reshape(-1).view(np.uint8)[0] ^= 1
    with pytest.raises(CorruptWeightsError, match=f"version {whole.version} .* damaged"):
        llava.call("load_weights", replace(whole, arrays=tuple(arrays)))
    assert llava.gap(llava.first) < EQUAL


def test_a_snapshot_with_a_gap_is_refused_and_a_whole_one_repairs(llava: Bench) -> None:
    llava.start_from(llava.first)
    whole = snapshot(changed(llava.first, ALL))
    (missing,) = (n for n in whole.names if n.endswith("language_model.norm.weight"))
    kept = [i for i, n in enumerate(whole.names) if n != missing]
    partial = WeightBucket.of(
        whole.version, [whole.names[i] for i in kept], [whole.arrays[i] for i in kept]
    )
    with pytest.raises(ValueError, match=f"left out 1 parameters.*{missing}"):
        llava.call("load_weights", partial)
    llava.start_from(llava.first)


def test_a_snapshot_with_an_unknown_name_is_refused_and_a_whole_one_repairs(llava: Bench) -> None:
    llava.start_from(llava.first)
    whole = snapshot(llava.first)
    renamed = WeightBucket.of(
        whole.version, ("model.nothing.weight", *whole.names[1:]), whole.arrays
    )
    with pytest.raises(ValueError, match="nothing"):
        llava.call("load_weights", renamed)
    llava.start_from(llava.first)


@pytest.fixture
def lender(ray_local: Any, text_model: Path) -> Iterator[Any]:
    group = new_learner(text_model)
    ray_local.get(group.ranks[0].__ray_call__.remote(share_weights))
    yield group
    group.close()


def test_weights_that_are_lent_answer_as_the_same_copied(text: Bench, lender: Any) -> None:
    """To the last bit."""

    def update(version: int, is_shared: bool) -> Any:
        exports = [
            lender.export(version, index, is_shared)
            for index in range(asyncio.run(lender.export_plan()).num_buckets)
        ]
        for export in exports if is_shared else ():
            text.call("prefetch", export.bucket)
        text.call("start_update")
        for export in exports:
            text.call("receive", export.bucket)
        assert text.call("verify", version) == [
            asyncio.run(lender.checksum(export)) for export in exports
        ]
        text.call("finish_update", version)
        return [(c.token_ids_T, c.logprobs_T[c.num_forced :]) for c in text.draw()]

    assert update(101, True) == update(102, False)
