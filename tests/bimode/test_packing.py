"""A packed line is the unpacked sequences: same log-probabilities, same loss, same gradient, for
text and for images, whether or not responses share their prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bimode.errors import ConfigError
from bimode.learner.attention import NAME, Spans, attend
from bimode.learner.packing import (
    PackedBatch,
    pack,
    plan_micro_batches,
    share_prompts,
    split_evenly,
    tree_tokens,
)
from bimode.learner.policy import Policy
from bimode.models.prepare_model import prepare_base
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.renderer import Renderer, load_model
from tests.sequences import loss_tokens, supervised

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


@pytest.fixture(scope="module", params=["image_text", "text", "mixed"])
def case(
    request: pytest.FixtureRequest,
    tiny_llava: Path,
    tiny_text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Renderer, Policy, list[TrainingSample]]]:
    """A codec, its policy, and samples: with images, without, and some of both in one batch."""
    path = tiny_llava
    if request.param == "text":
        path, _ = prepare_base(str(tiny_text), tmp_path_factory.mktemp("text") / "base", seed=0)
    renderer = Renderer(path)
    samples = supervised(renderer, 6, images=request.param != "text")
    if request.param == "mixed":
        samples = [
            *supervised(renderer, 2, images=False, first=6),
            *samples,
            *supervised(renderer, 1, images=False, first=8),
        ]
    yield (
        renderer,
        Policy(load_model(path, torch.float32)),
        [response for s in samples for response in rollouts(s)],
    )


def rollouts(sample: TrainingSample) -> list[TrainingSample]:
    """Three responses to one prompt: the sample's own, its tokens backwards, and one of a single
    token.
    """
    ids, length = sample.token_ids_T, len(sample.token_ids_T)
    one = dict.fromkeys(("loss_mask_T", "advantages_T", "behavior_logprobs_T"), (1.0,))
    return [
        sample,
        replace(sample, token_ids_T=ids[::-1]),
        replace(sample, token_ids_T=ids[length // 2 :][:1], **one),
    ]


def pack_with(renderer: Renderer, trees: list[list[TrainingSample]]) -> PackedBatch:
    return pack(trees, [renderer.encode_images(tree[0].images) for tree in trees])


def shared(samples: list[TrainingSample], micro_tokens: int) -> list[list[TrainingSample]]:
    return [[samples[i] for i in tree] for tree in share_prompts(samples, micro_tokens)]


def loss_and_gradient(
    policy: Policy, batches: list[PackedBatch], num_tokens: float
) -> tuple[float, torch.Tensor]:
    policy.zero_grad()
    total = 0.0
    for batch in batches:
        loss = -(policy(batch)[0] * batch.loss_mask_N).sum() / num_tokens
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize("shares", [True, False], ids=["prompts shared", "side by side"])
def test_packed_equals_unpacked_in_loss_and_gradient(
    case: tuple[Renderer, Policy, list[TrainingSample]], shares: bool
) -> None:
    renderer, policy, samples = case
    tokens = loss_tokens(samples)
    room = 3 * max(tree_tokens([s]) for s in samples)
    trees = shared(samples, room) if shares else [[s] for s in samples]
    packed = pack_with(renderer, trees)
    assert packed.input_ids_T.shape == (sum(map(tree_tokens, trees)),)  # nothing is padded
    assert not shares or len(trees) <= len(samples) / 3
    loss, gradient = loss_and_gradient(policy, [packed], tokens)
    alone, reference = loss_and_gradient(
        policy, [pack_with(renderer, [[s]]) for s in samples], tokens
    )
    assert loss == pytest.approx(alone, abs=1e-5)
    torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


def test_logprobs_are_those_of_the_models_own_forward(
    case: tuple[Renderer, Policy, list[TrainingSample]],
) -> None:
    renderer, policy, samples = case
    trees = shared(samples, 400)
    batch, plain = pack_with(renderer, trees), load_model(renderer.path, torch.float32)
    with torch.no_grad():
        logprobs_N, entropy_N = policy(batch)
        for i, sample in enumerate(s for tree in trees for s in tree):
            expected, entropy = by_the_model_itself(plain, renderer, sample)
            own = batch.sample_N == i
            torch.testing.assert_close(logprobs_N[own], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropy_N[own], entropy, atol=1e-5, rtol=1e-5)


def by_the_model_itself(
    model: Any, renderer: Renderer, sample: TrainingSample
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies [T] of a response, by the plain forward pass of transformers
    on it alone.
    """
    ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids_T]])
    logits = model(input_ids=ids, **dict(renderer.encode_images(sample.images))).logits[0]
    logp_TV = torch.log_softmax(logits[len(sample.prompt_ids) - 1 : -1], dim=-1)
    return logp_TV.gather(-1, torch.tensor(sample.token_ids_T)[:, None]).squeeze(-1), -(
        logp_TV.exp() * logp_TV
    ).sum(-1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [None, 12], ids=["full", "sliding"])
def test_attention_is_that_of_transformers(
    tiny_llava: Path, attention: str, window: int | None
) -> None:
    renderer, config = Renderer(tiny_llava), small_qwen(window)
    torch.manual_seed(0)
    plain = Qwen3ForCausalLM._from_config(config, attn_implementation=attention)
    assert ("sliding_attention" in config.layer_types) is (window is not None)
    policy = Policy(deepcopy(plain))
    samples = [response for s in supervised(renderer, 3, images=False) for response in rollouts(s)]
    trees = shared(samples, 400)
    with torch.no_grad():
        batch = pack_with(renderer, trees)
        logprobs_N = policy(batch)[0]
        for i, sample in enumerate(s for tree in trees for s in tree):
            expected, _ = by_the_model_itself(plain, renderer, sample)
            torch.testing.assert_close(
                logprobs_N[batch.sample_N == i], expected, atol=1e-5, rtol=1e-5
            )


def small_qwen(window: int | None) -> Qwen3Config:
    """Two layers, of which the second slides with a `window`; two heads of queries to one of
    keys.
    """
    return Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=1,
        initializer_range=0.3,
    )


def test_sequences_of_a_line_do_not_see_each_other(tiny_llava: Path) -> None:
    renderer, policy = Renderer(tiny_llava), Policy(load_model(tiny_llava, torch.float32))
    first, second, other = supervised(renderer, 3)
    sibling = replace(first, token_ids_T=first.token_ids_T[::-1])
    with torch.no_grad():
        alone = pack_with(renderer, [[first]])
        for trees in (
            [[first], [second]],
            [[first], [other]],
            [[first, sibling]],
            [[sibling, first], [second]],
        ):
            beside = pack_with(renderer, trees)
            at = next(i for i, s in enumerate(s for tree in trees for s in tree) if s is first)
            torch.testing.assert_close(
                policy(beside)[0][beside.sample_N == at], policy(alone)[0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_by_hand(window: int | None, dtype: torch.dtype) -> None:
    """A trunk of 2, branches of 3 and 1, then a sequence of 4; against softmax over the keys that
    each token may see.
    """
    lines = [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 5],
        [6],
        [6, 7],
        [6, 7, 8],
        [6, 7, 8, 9],
    ]
    keys_K = torch.tensor([0, 1, 0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 9])
    spans = Spans((2, 3, 1, 4), (2, 5, 3, 4), keys_K)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 10, 4, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    got, _ = attend(None, q, k, v, None, spans=spans, scaling=0.7, sliding_window=window)
    for t, line in enumerate(lines):
        keys = line[-window:] if window else line
        for head in range(4):
            weights = torch.softmax(0.7 * k[0, head // 2, keys] @ q[0, head, t], 0)
            torch.testing.assert_close(
                got[0, t, head], weights @ v[0, head // 2, keys], atol=1e-5, rtol=1e-5
            )
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(
            lambda *x: attend(None, *x, None, spans=spans, scaling=0.7, sliding_window=window)[0],
            (q, k, v),
        )


def test_an_attention_that_is_not_computed_here_is_refused() -> None:
    model = Qwen3ForCausalLM(small_qwen(None))
    model._supports_attention_backend = False
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM: has an attention of its own"):
        Policy(model)
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ConfigError, match="sinks"):
        attend(
            model,
            x,
            x,
            x,
            None,
            spans=Spans((2,), (2,), torch.arange(2)),
            scaling=1.0,
            s_aux=torch.zeros(1),
        )


def test_a_model_with_several_positions_a_token_is_refused() -> None:
    """It would be trained on other positions than it generates with."""
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 16}
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=sizes | {"vocab_size": 32, "num_key_value_heads": 1}, vision_config=vision
        )
    )
    with pytest.raises(ConfigError, match="M-RoPE"):
        Policy(model)


def test_a_saved_model_does_not_name_the_attention_it_was_trained_with(tmp_path: Path) -> None:
    model = Qwen3ForCausalLM(small_qwen(None))
    Policy(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def bare(prompt: int, length: int) -> TrainingSample:
    ones_T, zeros_T = (1.0,) * length, (0.0,) * length
    return TrainingSample(
        (prompt,) * 10, (1,) * length, ones_T, ones_T, zeros_T, (), Mode.AUTO, "q", (0,) * length
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), max_size=40), st.integers(15, 60))
def test_trees_hold_every_sample_once_share_one_prompt_and_fit(
    scored: list[tuple[int, int]], micro_tokens: int
) -> None:
    samples = [bare(*each) for each in scored]
    trees = share_prompts(samples, micro_tokens)
    assert sorted(i for tree in trees for i in tree) == list(range(len(samples)))
    for tree in trees:
        assert tree == sorted(tree) and len({samples[i].prompt_ids for i in tree}) == 1
        assert len(tree) == 1 or tree_tokens([samples[i] for i in tree]) <= micro_tokens
    # first fit: where two neighboring trees of a prompt are, the second's first response had no
    # room in the first
    for prompt in range(4):
        own = [tree for tree in trees if samples[tree[0]].prompt_ids[0] == prompt]
        for tree, following in pairwise(own):
            assert tree_tokens([samples[i] for i in [*tree, following[0]]]) > micro_tokens


@given(lengths=LENGTHS, micro_tokens=st.integers(1, 80))
def test_micro_batches_hold_every_tree_once_and_fit(lengths: list[int], micro_tokens: int) -> None:
    plan = plan_micro_batches(lengths, micro_tokens)
    assert sorted(i for part in plan for i in part) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in part) <= micro_tokens or len(part) == 1 for part in plan)
    # first fit: at most one can be half empty
    assert sum(2 * sum(lengths[i] for i in part) < micro_tokens for part in plan) <= 1


@given(lengths=LENGTHS, parts=st.integers(1, 4))
def test_shares_are_even_to_one_sample(lengths: list[int], parts: int) -> None:
    shares = split_evenly(lengths, parts)
    assert len(shares) == parts and sorted(i for share in shares for i in share) == list(
        range(len(lengths))
    )
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
