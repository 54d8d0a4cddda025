"""The learner's end of nccl and ipc, as far as a machine without a GPU can tell: what it would
send, and a refusal.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_families import write

pytestmark = pytest.mark.ray

GATHER = """
import sys
from pathlib import Path

import torch

from actors.learner.engines import build_engine
from actors.weights.sender import GatheredSource
from bimode.renderer import as_saved, load_model
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.learner.policy import Policy

store = f"file://{sys.argv[2]}"
torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
model = load_model(Path(sys.argv[1]), torch.float32)
named = {name: p.detach() for name, p in model.named_parameters()}
whole = {name: tensor.clone() for name, tensor in as_saved(model, named).items()}
engine = build_engine(Policy(model), LearnerConfig(zero_stage=3), OptimConfig(), torch.float32)
assert all(p.numel() == 0 for p in model.parameters()), "ZeRO-3 has not split the parameters"
source = GatheredSource(model)
for _ in range(2):  # every update starts a fresh pass
    sent = list(source)
    told = [(m.name, m.dtype, m.shape) for m in source.metadata()]
    assert told == [(n, t.dtype, tuple(t.shape)) for n, t in sent]
    assert all(torch.equal(t, whole[n]) for n, t in sent) and len(sent) == len(whole)
assert all(p.numel() == 0 for p in model.parameters()), "a gathered parameter was not freed"
print("whole")
"""


def test_the_source_gathers_what_zero_3_has_split(tiny_llava: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GATHER, str(tiny_llava), str(tmp_path / "rendezvous")],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.stdout.splitlines()[-1:] == ["whole"], done.stderr[-2000:]


def test_each_worker_has_a_rank_of_its_own() -> None:
    from actors.weights.sender import with_rank_offset

    info = {"rank_offset": 1, "world_size": 4}
    assert [with_rank_offset(info, i)["rank_offset"] for i in range(3)] == [1, 2, 3]
    assert with_rank_offset({"packed": True}, 2) == {"packed": True}


def test_merged_experts_leave_one_by_one(tmp_path: Path) -> None:
    """As in the model's files. A name that vLLM does not know would leave the old experts live."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from actors.weights.sender import GatheredSource

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_experts=4,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
    )
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path)
    saved, source = load_file(tmp_path / "model.safetensors"), GatheredSource(model)
    sent = dict(source)
    assert sent.keys() == saved.keys() and "model.layers.1.mlp.experts.3.up_proj.weight" in sent
    assert all(torch.equal(tensor, saved[name]) for name, tensor in sent.items())
    expected = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sent.items()]
    assert [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()] == expected


@pytest.mark.parametrize(("rows", "size"), [(151_936, 151_936 * 4096 * 2), (1000, 1 << 30)])
def test_the_buffer_of_ipc_holds_the_largest_tensor(rows: int, size: int) -> None:
    """The embedding of an 8B model has 1.24 GB, and vLLM's own buffer 1.07."""
    import torch

    from actors.weights.sender import GatheredSource, ipc_info

    with torch.device("meta"):
        parts = torch.nn.Embedding(rows, 4096), torch.nn.Linear(8, 8)
        model = torch.nn.Sequential(*parts).to(torch.bfloat16)
    info = ipc_info(0, GatheredSource(model))
    assert info.packed and info.packed_buffer_size_bytes == size


def test_without_a_gpu_the_sender_is_refused() -> None:
    import torch

    from actors.weights.sender import WeightSender
    from bimode.errors import ConfigError

    if torch.cuda.is_available():
        pytest.skip("a GPU is here, so the sender is allowed")
    with pytest.raises(ConfigError, match=r"bpo.sync = ipc: .*object_store"):
        WeightSender(torch.nn.Linear(2, 2), [], sync="ipc", rank=0, address="127.0.0.1", port=0)


def test_vllms_own_nccl_engines_bring_every_tensor_of_an_update_to_every_worker() -> None:
    """Of the whole sequence only the communicator is stood in for. The third line of each worker is
    the control: a parameter that changed after the last update.
    """
    program = Path(__file__).with_name("nccl_line.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=180
    )
    *compared, ranks = done.stdout.splitlines() or [done.stderr[-2000:]]
    assert compared == ["0 6 True"] * 2 + ["1 6 True"] * 2 + ["2 6 False"] * 2
    assert ranks == "[[1], [2]]"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "llava_onevision"])
def test_names_are_those_of_the_models_files(name: str, tmp_path: Path) -> None:
    """In memory these families call their weights otherwise, and vLLM knows the files' names."""
    import torch
    from safetensors import safe_open

    from actors.weights.sender import GatheredSource
    from bimode.renderer import load_model

    model = load_model(write(name, tmp_path / "model"), torch.float32)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    sent = dict(GatheredSource(model))
    assert sent.keys() == stored.keys() != dict(model.named_parameters()).keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in sent.items())
