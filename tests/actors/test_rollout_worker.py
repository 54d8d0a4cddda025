"""The rollout worker on real vLLM: what a completion holds in each mode, for image-text and for
text-only models.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from bimode.errors import ConfigError
from bimode.modes import Mode, parse_response
from bimode.records import Completion, GenerationRequest, Prompt
from bimode.renderer import Renderer

LIMIT = 48


def picture(seed: int) -> bytes:
    """A PNG of noise on the tiny model's canvas."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def ask(name: str, images: tuple[bytes, ...]) -> Prompt:
    return Prompt(
        id=name,
        question="digits : read the strip as one number . what is its remainder ?",
        images=images,
        answer="1",
        verifier="exact",
        verifier_args="{}",
        task="t",
        level="easy",
    )


def request(
    prompt: Prompt, mode: Mode, n: int = 4, temperature: float = 1.0, seed: int = 0
) -> GenerationRequest:
    return GenerationRequest(prompt, mode, n, temperature, LIMIT, seed)


def completions_of(actor: Any, requests: list[GenerationRequest]) -> list[Completion]:
    """Those of all requests, none of which is refused."""
    import ray

    results = ray.get(actor.generate.remote(requests))
    assert not any(result.refused for result in results)
    return [completion for result in results for completion in result.completions]


PROMPTS = [ask(f"p{i}", (picture(i),)) for i in range(8)]


@pytest.fixture(scope="module")
def scored(ray_local: Any, rollout_actor: Any) -> list[Completion]:
    """4 samples of 8 prompts in 3 modes, prompts outermost."""
    requests = [request(p, mode) for p in PROMPTS for mode in Mode]
    return completions_of(rollout_actor, requests)


def test_completions_come_in_the_order_of_requests_then_samples(scored: list[Completion]) -> None:
    asked = [(p.id, mode) for p in PROMPTS for mode in Mode for _ in range(4)]
    assert [(c.prompt_id, c.mode) for c in scored] == asked


def test_the_cache_is_there_as_it_is_used(
    ray_local: Any, scored: list[Completion], rollout_actor: Any
) -> None:
    """All of it is a gigabyte, which a model of this size will not fill (`actors.cpu_memory`)."""
    assert (
        ray_local.get(
            rollout_actor.__ray_call__.remote(lambda _: psutil.Process().memory_info().rss)
        )
        < 1 << 30
    )


def test_forced_tokens_lead_and_carry_no_logprob(
    scored: list[Completion], tiny_llava: Path
) -> None:
    renderer = Renderer(tiny_llava)
    think, direct, close = renderer.tokens.think, renderer.tokens.direct, renderer.tokens.close
    expected = {Mode.AUTO: (), Mode.THINKING: (think,), Mode.NON_THINKING: (direct, close)}
    for c in scored:
        forced = expected[c.mode]
        assert c.num_forced == len(forced)
        assert c.token_ids_T[: c.num_forced] == forced
        assert all(math.isnan(x) for x in c.logprobs_T[: c.num_forced])
        assert all(x <= 0 for x in c.logprobs_T[c.num_forced :])  # NaN would fail too
        assert len(c.logprobs_T) == len(c.versions_T) == len(c.token_ids_T)
        if c.mode is Mode.NON_THINKING:
            assert parse_response(c.text).closed and not parse_response(c.text).is_thinking


def test_prompt_ids_are_the_learners_and_text_is_the_codecs(
    scored: list[Completion], tiny_llava: Path
) -> None:
    renderer = Renderer(tiny_llava)
    for prompt, c in zip([p for p in PROMPTS for _ in range(12)], scored, strict=True):
        assert c.prompt_ids == renderer.encode_prompt(prompt.question, prompt.images)
        assert c.prompt_ids[-1] == renderer.tokens.open
        assert c.text == renderer.decode_response(c.token_ids_T)
        assert c.worker == "w0"


def test_finished_means_ended_by_the_end_of_turn(
    scored: list[Completion], tiny_llava: Path
) -> None:
    eos = Renderer(tiny_llava).eos_id
    for c in scored:
        assert c.finished == (c.token_ids_T[-1] == eos)
        assert eos not in c.token_ids_T[:-1]
        assert c.finished or c.num_tokens == LIMIT  # the limit counts forced tokens too
    assert {c.finished for c in scored} == {True, False}


def test_image_placeholders_are_never_sampled(scored: list[Completion], tiny_llava: Path) -> None:
    (image,) = Renderer(tiny_llava).placeholder_ids
    sampled = [i for c in scored for i in c.token_ids_T]
    assert (
        len(sampled) > 3000 and len(set(sampled)) > 150
    )  # nearly every other token of the vocabulary is
    assert image not in sampled


def test_equal_seeds_give_equal_samples(ray_local: Any, rollout_actor: Any) -> None:
    def draw(seed: int, temperature: float = 1.0) -> list[tuple[int, ...]]:
        requests = [
            request(
                PROMPTS[0], Mode.AUTO, n=4 if temperature else 1, seed=seed, temperature=temperature
            )
        ]
        return [c.token_ids_T for c in completions_of(rollout_actor, requests)]

    first = draw(seed=1)
    assert draw(seed=1) == first
    assert set(draw(seed=2)).isdisjoint(first)
    assert len(set(first)) == 4
    assert draw(seed=1, temperature=0.0) == draw(seed=2, temperature=0.0)  # greedy
    later = replace(request(PROMPTS[0], Mode.AUTO, n=2, seed=1), first=2)
    assert [c.token_ids_T for c in completions_of(rollout_actor, [later])] == first[2:]


def test_a_repetition_penalty_makes_repeated_tokens_rarer(
    ray_local: Any, rollout_actor: Any
) -> None:
    def repeats(penalty: float) -> int:
        asked = [replace(request(p, Mode.THINKING), repetition_penalty=penalty) for p in PROMPTS]
        scored = completions_of(rollout_actor, asked)
        return sum(c.num_tokens - len(set(c.token_ids_T)) for c in scored)

    assert repeats(2.0) < 0.9 * repeats(1.0)


def test_nothing_but_a_choice_is_said(ray_local: Any, rollout_actor: Any) -> None:
    asked = [
        replace(request(PROMPTS[0], Mode.AUTO, n=8, seed=seed), choices=("digits", "so"))
        for seed in (1, 2)
    ]
    scored = completions_of(rollout_actor, asked)
    assert {c.text.strip() for c in scored} == {"digits", "so"} and all(c.finished for c in scored)


def test_too_little_room_is_one_line_that_names_the_key(ray_local: Any, rollout_actor: Any) -> None:
    tight = GenerationRequest(PROMPTS[0], Mode.NON_THINKING, 1, 1.0, 2, 0)
    with pytest.raises(ConfigError, match="max_tokens = 2: "):
        completions_of(rollout_actor, [tight])


def refused_prompts() -> dict[str, Prompt]:
    """Prompts that do not fit an engine of 128 tokens."""
    images = tuple(picture(i) for i in range(5))
    long = replace(ask("long", images[:1]), question=" ".join(["read"] * 200))
    return {
        "5 images, at most 4": ask("five", images),
        "at most 125": long,
        "begins with b'": ask("broken", (b"\x89PNG no picture",)),
    }


def test_a_prompt_that_is_not_taken_costs_itself(ray_local: Any, rollout_actor: Any) -> None:
    """The others' samples are what they are without it, and no mode of it is answered."""
    good = [request(PROMPTS[0], Mode.THINKING), request(PROMPTS[1], Mode.AUTO)]
    bad = [request(prompt, mode) for prompt in refused_prompts().values() for mode in Mode]
    results = ray_local.get(rollout_actor.generate.remote([good[0], *bad, good[1]]))
    alone = ray_local.get(rollout_actor.generate.remote(good))
    assert [[c.token_ids_T for c in r.completions] for r in (results[0], results[-1])] == [
        [c.token_ids_T for c in result.completions] for result in alone
    ]
    assert [len(result.completions) for result in results] == [4, *[0] * 9, 4]
    for result, said in zip(
        results[1:-1], [said for said in refused_prompts() for _ in Mode], strict=True
    ):
        assert said in result.refused
    nothing = ray_local.get(rollout_actor.generate.remote(bad))
    assert all(result.refused and not result.completions for result in nothing)


def test_what_only_the_engine_knows_costs_its_prompt_too(
    ray_local: Any, rollout_actor: Any
) -> None:
    """vLLM's own limits, found by a worker whose statement of them is too generous."""

    def answered(worker: Any, asked: list[GenerationRequest]) -> list[Any]:
        limits = worker.limits
        worker.limits = replace(limits, max_images=99, max_model_len=9999)
        try:
            return worker.generate(asked)
        finally:
            worker.limits = limits

    five, long, _ = refused_prompts().values()
    asked = [
        request(PROMPTS[0], Mode.AUTO),
        *(request(five, mode) for mode in Mode),
        request(long, Mode.AUTO),
    ]
    asked.append(request(PROMPTS[0], Mode.THINKING))
    results = ray_local.get(rollout_actor.__ray_call__.remote(answered, asked))
    assert [len(result.completions) for result in results] == [4, 0, 0, 0, 0, 4]
    assert (
        all("image" in result.refused for result in results[1:4]) and "length" in results[4].refused
    )
    assert len(completions_of(rollout_actor, [request(PROMPTS[2], Mode.AUTO)])) == 4, (
        "nothing is left under way"
    )


def test_a_prompt_is_encoded_once_a_lease(ray_local: Any, rollout_actor: Any) -> None:
    """Not for every completion: a processor without a fixed size would prepare its images each
    time.
    """

    def counted(worker: Any, asked: list[GenerationRequest]) -> int:
        calls, encode = [], worker.renderer.encode_prompt
        worker.renderer.encode_prompt = lambda *given: calls.append(given) or encode(*given)
        try:
            worker.generate(asked)
        finally:
            del worker.renderer.encode_prompt
        return len(calls)

    asked = [request(p, mode, n=8) for p in PROMPTS[:2] for mode in Mode]
    assert ray_local.get(rollout_actor.__ray_call__.remote(counted, asked)) == 2


def test_gpu_transport_is_refused_without_a_gpu(tiny_llava: Path) -> None:
    import torch

    from actors.rollout.worker import RolloutWorker

    if torch.cuda.is_available():
        pytest.skip("a GPU is here, so nccl is allowed")
    with pytest.raises(ConfigError, match=r"bpo.sync = nccl: .*object_store"):
        RolloutWorker("w0", tiny_llava, max_model_len=128, dtype="float32", seed=0, sync="nccl")


def test_a_text_only_model_generates_in_each_mode(ray_local: Any, text_actor: Any) -> None:
    scored = completions_of(text_actor, [request(ask("t", ()), mode) for mode in Mode])
    assert [c.num_forced for c in scored[::4]] == [0, 1, 2]
    assert all(c.num_forced < c.num_tokens <= LIMIT for c in scored)


def test_images_survive_caches_that_are_emptied_under_way(
    ray_local: Any, rollout_actor: Any
) -> None:
    """As new weights do it; prompts whose prefix is cached are begun anew with their images (vLLM
    0.32 alone loses them).
    """

    def disturbed(worker: Any, asked: list[GenerationRequest]) -> tuple[int, int]:
        resets, answered = 0, 0
        for lease in range(2):
            worker.begin(lease, asked)
            while not (done := worker.advance(0.3)):
                worker.reset_caches()
                resets += 1
            answered += sum(len(result.completions) for result in done[lease])
        return resets, answered

    asked = [request(p, mode, n=24) for p in PROMPTS for mode in (Mode.THINKING, Mode.NON_THINKING)]
    resets, answered = ray_local.get(rollout_actor.__ray_call__.remote(disturbed, asked))
    assert resets > 2 and answered == 2 * 24 * len(asked)
