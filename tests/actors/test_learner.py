"""The learner on real engines: DeepSpeed with two ranks against plain torch with one; going on;
refusing to diverge.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimode.config.recipe import LearnerConfig, OptimConfig
from bimode.models.template import CHAT_TEMPLATE
from bimode.models.tiny_llava import TinyShape, write_tiny_llava
from bimode.renderer import Renderer, load_model
from bimode.rl.loss import policy_loss, sft_loss
from bimode.storage.checkpoints import checkpoints
from tests.sequences import loss_tokens, supervised

REPO = Path(__file__).resolve().parents[2]
ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
BFLOAT16 = ("bf16z1", "bf16z2", "bf16z3")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def wide_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA whose larger matrices exceed the size up to which ZeRO-3 keeps a parameter whole
    (100,000).
    """
    shape = TinyShape(text_width=256, intermediate=640, text_layers=2, vision_layers=1)
    return write_tiny_llava(tmp_path_factory.mktemp("wide") / "model", CHAT_TEMPLATE, shape)


@pytest.fixture(scope="module")
def found(wide_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each case of ranks.py reported, by name; three processes in all."""
    out = tmp_path_factory.mktemp("ranks")
    started = [_start(rank, world, wide_llava, out) for world in (1, 2) for rank in range(world)]
    for process in started:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said[-3000:]
    return {path.stem: torch.load(path) for path in out.glob("*.pt")} | {"out": out}


def _start(rank: int, world: int, model: Path, out: Path) -> subprocess.Popen[str]:
    arguments = [str(rank), str(world), str(out / f"meeting{world}"), str(model), str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.actors.ranks", *arguments],
        cwd=REPO,
        env=dict(os.environ),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("name", ENGINES)
def test_two_ranks_take_the_steps_of_one(found: dict[str, Any], name: str) -> None:
    """Uneven shares, a share without images and an empty one included; the gradient is the sum over
    ranks, not the mean.
    """
    ours, alone = found[name], found["alone"]
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert ours["norms"] == pytest.approx(alone["norms"], rel=1e-3)
    assert min(alone["norms"]) > 0.5  # clipping was at work
    for key, weight in alone["weights"].items():
        torch.testing.assert_close(
            ours["weights"][key], weight, atol=2e-4, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", ["long1", "long2", "long3", "lean3", "lean_alone"])
def test_twenty_steps_are_those_of_plain_torch(
    found: dict[str, Any], wide_llava: Path, name: str
) -> None:
    """ZeRO 1 to 3 on two ranks, and layers computed again under a head in chunks: the same norm in
    each step, the same weights after 20. AdamW makes as much of a gradient near 0 as of any other,
    so float32 sums in another order part slowly: at a learning rate of 1e-3, weights that moved by
    up to 0.01 and more agree to 2e-4.
    """
    from safetensors.torch import load_file

    ours, alone = found[name], found["long_alone"]
    assert len(alone["norms"]) == 20 and ours["checkpointing"] is name.startswith("lean")
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert ours["norms"] == pytest.approx(alone["norms"], rel=1e-3)
    start = load_file(wide_llava / "model.safetensors")
    assert max((alone["weights"][key] - weight).abs().max() for key, weight in start.items()) > 0.01
    for key, weight in alone["weights"].items():
        torch.testing.assert_close(
            ours["weights"][key], weight, atol=2e-4, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_learns_about_the_same(found: dict[str, Any], name: str) -> None:
    assert found[name]["losses"] == pytest.approx(found["alone"]["losses"], rel=2e-2)
    types = {weight.dtype for weight in found[name]["weights"].values()}
    assert types == {torch.bfloat16}, "of a base in float32"


def test_frozen_parameters_stay_and_others_move(found: dict[str, Any], wide_llava: Path) -> None:
    from safetensors.torch import load_file

    start, end = load_file(wide_llava / "model.safetensors"), found["frozen"]["weights"]
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and all(name.startswith("language_model") for name in moved)


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_bfloat16_gradients_of_512_passes_are_summed_in_float32(
    found: dict[str, Any], name: str
) -> None:
    """In bfloat16, passes that agree add up to 3 to 5 % less: the sum rounds each off."""
    for passes in [found["passes2"], *([found["passes1"]] if name == "zero1" else [])]:  # ranks
        norm, weights = passes[name]
        same_passes, weights_of_same = passes["bfloat16"]
        assert norm == pytest.approx(passes["float32"][0], rel=1e-3)
        assert norm == pytest.approx(same_passes, rel=1e-3)
        assert difference(weights, weights_of_same, passes["start"][1]) < 0.03


Weights = dict[str, Tensor]


def difference(ours: Weights, others: Weights, start: Weights) -> float:
    """How far apart two models are, in units of the way that the second has gone since `start`."""
    apart = moved = 0.0
    for name, weight in others.items():
        apart += float((ours[name].float() - weight).pow(2).sum())
        moved += float((weight - start[name]).pow(2).sum())
    return (apart / moved) ** 0.5


@pytest.mark.parametrize("name", [*ENGINES, *BFLOAT16, "one"])
def test_a_restored_learner_goes_on_exactly(found: dict[str, Any], name: str) -> None:
    weights, resumed = found[name]["weights"], found[name]["resumed"]
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


@pytest.mark.parametrize("name", [*ENGINES, *BFLOAT16])
def test_a_step_that_is_not_finite_is_refused_on_every_rank(
    found: dict[str, Any], name: str
) -> None:
    case = found[name]
    gradient, loss = case["said"]
    assert "gradient norm" in gradient and "not finite on 1 rank" in loss
    assert case["complaints"] == [2.0, 2.0]
    assert all(
        torch.equal(case["resumed"][key], case["after_steep"][key]) for key in case["resumed"]
    )
    assert all(
        torch.equal(case["before_nan"][key], case["after_nan"][key]) for key in case["before_nan"]
    )


@pytest.mark.parametrize("name", ["zero3", "bf16z3"])
def test_a_saved_model_is_copied_on_the_first_rank_alone(found: dict[str, Any], name: str) -> None:
    """Eight ranks of a node would hold the model eight times in its memory."""
    first, second = found[name]["copied"]
    assert first == sum(weight.nbytes for weight in found[name]["weights"].values())
    assert second == 0


@pytest.mark.parametrize("name", ["zero1", "zero3", *BFLOAT16])
def test_the_saved_model_opens_with_plain_transformers(
    found: dict[str, Any], wide_llava: Path, name: str
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = found["out"] / name / "model"
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    assert AutoProcessor.from_pretrained(path).tokenizer.chat_template == CHAT_TEMPLATE
    trained = found[name]["weights"]["language_model.model.norm.weight"]
    torch.testing.assert_close(model.model.language_model.norm.weight.detach(), trained.float())
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    assert sorted(p.name for p in path.iterdir()) == sorted(p.name for p in wide_llava.iterdir())


def test_exported_names_are_those_of_the_models_files(
    found: dict[str, Any], wide_llava: Path
) -> None:
    from safetensors import safe_open

    with safe_open(wide_llava / "model.safetensors", "pt") as file:
        assert set(found["zero3"]["weights"]) == set(file.keys())


def learner_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As far as it knows weights, in this process."""
    from actors.learner import distributed
    from actors.learner.engines import TorchEngine, named_tensors
    from actors.learner.learner import Learner
    from bimode.learner.policy import Policy

    monkeypatch.setattr(distributed, "rank", lambda: 0)
    learner = object.__new__(Learner)
    learner.model, learner.buckets = model, [(name,) for name, _ in named_tensors(model)]
    learner.engine = TorchEngine(Policy(model, 0), OptimConfig(), torch.float32)
    return learner


def test_weights_that_are_lent_are_saved_from_where_they_lie(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no copy of the model is made for it."""
    from safetensors.torch import load_file
    from transformers import modeling_utils

    from actors.learner import distributed

    monkeypatch.setattr(distributed, "barrier", lambda: None)
    learner = learner_of(load_model(text_model, torch.float32), monkeypatch)
    learner.renderer = Renderer(text_model)
    assert learner.share()
    saved, real = dict[str, int](), modeling_utils.safe_save_file

    def save_file(tensors: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> None:
        saved.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        real(tensors, *args, **kwargs)

    monkeypatch.setattr(modeling_utils, "safe_save_file", save_file)
    learner.save_model(tmp_path / "model")
    held = dict(learner.model.named_parameters())
    assert saved == {name: parameter.data_ptr() for name, parameter in held.items()}
    assert all(
        torch.equal(tensor, held[name])
        for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items()
    )


def test_weights_whose_files_have_another_layout_are_not_lent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Experts lie in one tensor, and leave one by one: what is cut out of it is copied."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 16,
        "num_experts": 4,
    }
    heads = {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    learner = learner_of(Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **heads)), monkeypatch)
    assert not learner.share()
    sent = [learner.export_bucket(1, index, True) for index in range(len(learner.buckets))]
    assert any(".experts.3.up_proj" in name for bucket in sent for name in bucket.names)


def test_a_group_of_actors_learns_and_comes_back(
    ray_local: Any, tiny_llava: Path, tmp_path: Path
) -> None:
    from actors.learner.group import LearnerGroup
    from actors.learner.learner import LearnerSpec

    optim = OptimConfig(lr=3e-3, warmup_steps=0, schedule="constant")
    samples = supervised(Renderer(tiny_llava), 12)
    tokens = loss_tokens(samples)
    config = LearnerConfig(workers=2, zero_stage=2, reference_offload=True)
    spec = LearnerSpec(tiny_llava, config, optim, 4, "float32", with_reference=True)
    group = LearnerGroup({"num_cpus": 1}, 2, spec)
    try:
        first = group.update(samples, sft_loss, tokens)
        assert first["tokens"] == sum(len(s.token_ids_T) for s in samples)
        assert first["tokens/thinking"] + first["tokens/non_thinking"] == first["tokens"]
        assert (
            first["decisions/thinking"] == first["decisions/non_thinking"] == 6
            and first["decisions"] == 12
        )
        assert (
            first["decision_advantage"] == 12
        )  # supervised samples have advantage 1 on every token
        assert group.optim_step().step == 1
        group.save(tmp_path / "step-000001")
        assert asyncio.run(group.export_plan()).num_buckets == 1
        at_one = ray_local.get(group.export(1, 0).bucket)
        assert at_one.version == 1 and len(at_one.names) == len(at_one.arrays) > 0
        kl = group.update(samples, policy_loss(0.2, 0.2, 0.1), num_tokens=tokens)["kl"]
        assert kl > 0  # the policy has left the frozen reference
        group.optim_step()
        group.save(tmp_path / "step-000002")
        group.restore(tmp_path / "step-000001")
        export = group.export(1, 0)
        assert asyncio.run(group.checksum(export)) == at_one.checksum
        back = ray_local.get(export.bucket)
        assert all((a == b).all() for a, b in zip(at_one.arrays, back.arrays, strict=True))
        assert group.update(samples, sft_loss, tokens)["loss"] < first["loss"]
        assert group.optim_step().step == 2
        group.save(tmp_path / "step-000003")
        assert [path.name for path in checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    finally:
        group.close()


def test_a_text_model_is_trained_and_saved(text_model: Path, tmp_path: Path) -> None:
    from actors.learner import distributed
    from actors.learner.learner import Learner, LearnerSpec

    samples = supervised(Renderer(text_model), 4, images=False)
    config = LearnerConfig(engine="torch", micro_tokens=800)
    optim = OptimConfig(lr=1e-2, warmup_steps=0)
    learner = Learner(LearnerSpec(text_model, config, optim, total_steps=3, dtype="float32"))
    try:
        losses = []
        for _ in range(3):
            losses.append(
                learner.forward_backward(samples, sft_loss, num_tokens=loss_tokens(samples))["loss"]
            )
            learner.optim_step()
        assert losses[2] < losses[0]
        learner.save_model(tmp_path / "model")
    finally:
        distributed.leave()
    model = load_model(tmp_path / "model", torch.float32)
    assert type(model).__name__ == "LlamaForCausalLM"
    Renderer(tmp_path / "model").tokens  # noqa: B018 - raises where the mode is not one token


def test_the_port_where_ranks_meet_is_taken_before_it_is_told() -> None:
    from actors.learner import distributed

    stores = [distributed.listen("127.0.0.1", 2) for _ in range(2)]
    assert stores[0].port != stores[1].port
    with pytest.raises(OSError, match="in use"), socket.socket() as thief:
        thief.bind(("127.0.0.1", stores[0].port))
    other = distributed.connect(f"127.0.0.1:{stores[0].port}", 2)
    other.set("key", "value")
    assert stores[0].get("key") == b"value"


def test_a_collective_waits_for_a_model_that_is_written(tmp_path: Path) -> None:
    """NCCL's own limit is 10 minutes, gloo's 30: rank 0 may need longer for a large model."""
    from torch import distributed as torch_distributed

    from actors.learner import distributed

    distributed.join(0, 1, torch_distributed.HashStore())
    try:
        options = torch_distributed.group.WORLD._get_backend(torch.device("cpu")).options
        assert options._timeout == distributed.TIMEOUT > timedelta(minutes=30)
    finally:
        distributed.leave()
