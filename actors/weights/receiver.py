"""The worker's side of a weight update, by vLLM's own protocol: init, start, update, finish.

The side inside the inference worker. `object_store` is ours: host arrays that Ray's object store
maps into the process go through vLLM's layer-wise reload, which repacks each layer as the first
load did. `nccl` and `ipc` are vLLM's built-in engines (`actors.weights.sender` is their other end).
vLLM imports this module in each worker through `worker_extension_cls`, before it makes the transfer
engine, so importing it is what registers the engine.

Names are those of the learner's `model.named_parameters()`, or those that `save_pretrained` writes:
vLLM maps both. A tied `lm_head` may be absent; anything else that is missing is an error: a silent
gap would leave old weights live.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from actors.cpu_memory import CpuReload

OBJECT_STORE = "object_store"


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Empty: the arrays come with the update."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: `arrays[i]` (numpy, host, read-only) is the parameter `names[i]`."""

    names: Sequence[str]
    arrays: Sequence[Any]


class ObjectStoreEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads whole host tensors in checkpoint format; vLLM copies them, so the arrays are free again
    after `finish`.
    """

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """Do nothing: there is no rendezvous."""

    def start_weight_update(self) -> None:
        self._in_place = (
            CpuReload(self.model) if next(self.model.parameters()).device.type == "cpu" else None
        )
        self.missing = {
            name for name, _ in self.model.named_parameters()
        }  # before the reload parts tied ones
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Load a bucket; layers that are complete with it are packed at once. After an error the
        next update starts clean.
        """
        try:
            loaded = self.model.load_weights(
                zip(update_info.names, map(as_tensor, update_info.arrays), strict=True)
            )
            self.missing -= set(loaded)
        except BaseException:
            self.finish_weight_update()
            raise

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self._in_place is not None:
            self._in_place.end()
            self._in_place = None
        repack_tied_heads(self.model)
        repack_experts(self.model)

    def shutdown(self) -> None:
        """Do nothing: there is nothing to release."""


def repack_tied_heads(model: torch.nn.Module) -> None:
    """Pack again each head that is tied to the embedding: it receives no weights of its own, so the
    reload leaves its packed copy (CPU) stale.
    """
    embeddings = [m for m in model.modules() if type(m) is VocabParallelEmbedding]
    for head in (m for m in model.modules() if isinstance(m, ParallelLMHead)):
        if any(head.weight is e.weight for e in embeddings):
            head.quant_method.process_weights_after_loading(head)


def repack_experts(model: torch.nn.Module) -> None:
    """Pack again the experts on a CPU, where vLLM packs them at the first load alone."""
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and module.w13_weight.device.type == "cpu":
            kernel.fused_experts.process_weights_after_loading(module)


def as_tensor(array: Any) -> torch.Tensor:
    """Make a tensor over the memory of an array (the inverse of `bimode.storage.weights.as_array`).
    Arrays from the object store are read-only, which torch would warn about.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype is torch.uint16 else tensor


class WorkerExtension:
    """Mixed into vLLM's worker class; its import registers the engine."""

    weight_transfer_engine: Any

    def missing_parameters(self) -> list[str]:
        """Parameters that no bucket of the update under way has held; empty for vLLM's engines."""
        return sorted(getattr(self.weight_transfer_engine, "missing", ()))


WeightTransferEngineFactory.register_engine(OBJECT_STORE, ObjectStoreEngine)
