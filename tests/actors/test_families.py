"""Learner against engine, for a family of each mechanism: M-RoPE with DeepStack, tiles, joined
tensors. The worker samples, the learner's packed trees give the same log-probabilities, at load and
after two live updates; a missed update is seen.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.core_model_loading import revert_weight_conversion

from bimode.learner.packing import pack
from bimode.learner.policy import Policy
from bimode.models.prepare_model import prepare_base
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt, TrainingSample
from bimode.renderer import Renderer, load_model
from bimode.storage.weights import WeightBucket
from tests.actors.conftest import start_worker
from tests.tiny_families import write

pytestmark = pytest.mark.ray
EQUAL, DIFFERENT = 1e-4, 0.1  # nats
SIZES: tuple[tuple[tuple[int, int], ...], ...] = (((64, 64), (96, 48)), ((48, 80),), ())


def picture(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def prompt(number: int) -> Prompt:
    return Prompt(
        id=str(number),
        question="which of them is larger ?",
        images=tuple(picture(*size) for size in SIZES[number]),
        answer="1",
        verifier="exact",
        verifier_args="{}",
        task="t",
        level="easy",
    )


PROMPTS = [prompt(number) for number in range(len(SIZES))]


def sample_of(completion: Completion, images: tuple[bytes, ...]) -> TrainingSample:
    ones = (1.0,) * completion.num_tokens
    return TrainingSample(
        prompt_ids=completion.prompt_ids,
        token_ids_T=completion.token_ids_T,
        loss_mask_T=ones,
        advantages_T=ones,
        behavior_logprobs_T=completion.logprobs_T,
        images=images,
        mode=completion.mode,
        origin=completion.prompt_id,
        versions_T=completion.versions_T,
    )


class Pair:
    """A rollout worker, and the model that a learner would hold."""

    def __init__(self, ray: Any, actor: Any, path: Path) -> None:
        self.ray, self.actor, self.renderer = ray, actor, Renderer(path)
        self.model = load_model(path, torch.float32).eval()
        self.version = 0

    def gap(self) -> float:
        """The largest difference of log-probabilities, over all drawn tokens, from one packed line
        of a tree a prompt.
        """
        requests = [
            GenerationRequest(each, mode, 3, 1.0, 12, seed=7)
            for each in PROMPTS
            for mode in (Mode.AUTO, Mode.NON_THINKING)
        ]
        results = self.ray.get(self.actor.generate.remote(requests))
        trees = []
        for number, each in enumerate(PROMPTS):
            completions = [c for r in results[2 * number : 2 * number + 2] for c in r.completions]
            trees.append([sample_of(completion, each.images) for completion in completions])
        images = [self.renderer.encode_images(each.images) for each in PROMPTS]
        batch = pack(trees, images, self.renderer.family, self.model.model)
        with torch.no_grad():
            logprobs_N, _ = Policy(self.model)(batch)
        drawn_N = ~batch.behavior_logprobs_N.isnan()
        return float((logprobs_N - batch.behavior_logprobs_N)[drawn_N].abs().max())

    def move(self, seed: int) -> None:
        """Change every weight, as an update would."""
        noise = torch.Generator().manual_seed(seed)
        self.model = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)

    def send(self) -> None:
        self.version += 1
        named = {name: p.detach() for name, p in self.model.named_parameters()}
        weights = dict(revert_weight_conversion(self.model, named))
        arrays = [weight.contiguous().numpy() for weight in weights.values()]
        bucket = WeightBucket.of(self.version, tuple(weights), arrays)
        self.ray.get(self.actor.load_weights.remote(bucket))


@pytest.fixture(scope="module", params=["qwen3_vl", "internvl", "smolvlm"])
def pair(
    request: pytest.FixtureRequest, ray_local: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    root = tmp_path_factory.mktemp(request.param)
    path, _ = prepare_base(str(write(request.param, root / "model")), root / "base", 0)
    actor = start_worker(ray_local, request.param, path, max_model_len=1024)
    yield Pair(ray_local, actor, path)
    ray_local.kill(actor)


def test_learner_and_engine_agree_at_load_and_after_two_updates(pair: Pair) -> None:
    assert pair.gap() < EQUAL
    for update in range(2):
        pair.move(update)
        assert pair.gap() > DIFFERENT, "an update that was missed would not be seen"
        pair.send()
        assert pair.gap() < EQUAL
