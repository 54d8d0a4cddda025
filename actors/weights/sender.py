"""The learner's side of `sync = "nccl"` and `"ipc"`: vLLM's trainer engines over the learner's own
parameters.

Every learner rank makes one `WeightSender` and calls `send` together with the others, since under
ZeRO-3 gathering a parameter is a collective; rank 0 alone speaks to the rollout workers.
`object_store` needs none of this: there the learner puts buckets (`bimode.storage.weights`) and
each worker loads them at its own boundary (`actors.weights.update`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from bimode.errors import ConfigError
from bimode.renderer import as_saved


class GatheredSource(WeightSource):
    """The parameters of a Hugging Face model, whole, one at a time, also where ZeRO-3 has split
    them.

    vLLM's own source unwraps DTensors only; a ZeRO-3 parameter is an empty tensor with its true
    shape in `ds_shape`. Experts lie in one tensor in memory and leave one by one, as in the model's
    files, whose names are those that vLLM's loaders know.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._saved_names = saved_names(model)

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, tensor.dtype, tuple(tensor.shape))
            for key, parameter in self._model.named_parameters()
            for name, tensor in self._as_saved(key, _outline(parameter))
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._model.named_parameters():
            yield from self._as_saved(name, _whole(parameter))

    def _as_saved(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        if name in self._saved_names:
            yield self._saved_names[name], tensor
            return
        for part, value in as_saved(self._model, {name: tensor}).items():
            yield part, value.contiguous()


def saved_names(model: torch.nn.Module) -> dict[str, str]:
    """Return the name in the model's files of each parameter that is one tensor there; those that
    are several, as experts, or have another layout are left out.
    """
    outlines = {name: _outline(parameter) for name, parameter in model.named_parameters()}
    name_of = {id(outline): name for name, outline in outlines.items()}
    saved = as_saved(model, outlines)  # at once: one by one it takes seconds
    return {name_of[id(tensor)]: name for name, tensor in saved.items() if id(tensor) in name_of}


def _outline(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Make a tensor of the whole parameter's shape and type, without memory."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return torch.empty(tuple(shape), dtype=parameter.dtype, device="meta")


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a tensor that stays valid after the gathered parameter is freed: the transport may
    still be reading it.
    """
    if not hasattr(parameter, "ds_shape"):
        return parameter.detach()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


@dataclass
class WorkersClient:
    """vLLM's control plane for all of our rollout workers."""

    workers: Sequence[Any]  # Ray handles of RolloutWorker

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        import ray

        ray.get(
            [
                w.init_transfer.remote(with_rank_offset(init_info, i))
                for i, w in enumerate(self.workers)
            ]
        )

    def start_weight_update(self) -> None:
        """Do nothing: each worker has paused, and the driver calls its `start_update`."""

    def update_weights(self, update_info: Any) -> None:
        import ray

        ray.get([w.update.remote(update_info) for w in self.workers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Do nothing: the driver verifies, and calls each worker's `finish_update`."""


def with_rank_offset(init_info: dict[str, Any], worker: int) -> dict[str, Any]:
    """Return `init_info` for one worker."""
    if "rank_offset" not in init_info:
        return init_info
    return init_info | {"rank_offset": init_info["rank_offset"] + worker}


class WeightSender:
    """Sends the learner's weights to all rollout workers by nccl or ipc. Every learner rank creates
    one and makes the same calls.

    `address` and `port` are the NCCL rendezvous that rank 0 opens; `ipc` ignores them, and needs
    one rank and one worker on one GPU. Raises ConfigError without a GPU.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        workers: Sequence[Any],
        *,
        sync: str,
        rank: int,
        address: str,
        port: int,
    ) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(
                "bpo.sync", sync, "moves weights between GPUs; use object_store where there is none"
            )
        client, source = WorkersClient(workers), GatheredSource(model)
        world = 1 + len(workers)
        by_nccl = sync == "nccl"
        info = nccl_info(rank, address, port, world) if by_nccl else ipc_info(rank, source)
        self._engine = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)

    def send(self) -> None:
        """Send all weights once, to workers that have paused."""
        torch.cuda.synchronize()  # vLLM packs parameters on streams of its own
        self._engine.send_weights()


def nccl_info(rank: int, address: str, port: int, world_size: int) -> TrainerInitInfo:
    """Return what a learner rank joins the NCCL group with."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(address, port, world_size, rank=rank)


def ipc_info(rank: int, source: WeightSource) -> TrainerInitInfo:
    """Return what a rank sends by ipc with: a buffer that holds the largest tensor, as vLLM
    requires.
    """
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
    from vllm.distributed.weight_transfer.packed_tensor import DEFAULT_PACKED_BUFFER_SIZE_BYTES

    largest = max(math.prod(meta.shape) * meta.dtype.itemsize for meta in source.metadata())
    size = max(DEFAULT_PACKED_BUFFER_SIZE_BYTES, largest)
    return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=size, rank=rank)
