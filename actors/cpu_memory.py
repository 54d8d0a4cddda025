"""The memory of an engine on a CPU: its cache, its large tensors, its layer-wise reload.

Each part repairs what vLLM 0.32 wastes there. `engine_memory` is entered while an engine is made;
`CpuReload` surrounds a reload of its weights. Nothing here runs on a GPU.

The cache: vLLM writes zeros into all of it, a gigabyte by `cluster.environment`, of which a small
model may need a hundredth. Memory that the system hands out is zero anyway.

Large tensors: `actors.host_memory`.

The reload: as vLLM has it, a layer is given new tensors to load into, is packed from them, and only
then frees its old packed weights. What lies free between two pieces that stay is seldom of use for
the next: a worker grows by 60 % of its model in ten updates; where large tensors have mappings of
their own, the system clears a page for every byte, twice. Here all packed weights are freed first,
which nothing may use before the update is over, and cut anew in the same order out of what they
leave. Layers that are packed load into one scratch, as large as the largest of them, the others
into what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from vllm.model_executor.model_loader.reload import layerwise
from vllm.v1.worker import gpu_model_runner

from actors.host_memory import keep_freed, map_large_tensors
from bimode.storage.weights import ALIGNMENT

PACKED = (  # vLLM's name for what a layer multiplies by: a closure over its packed weights
    "cpu_linear"
)
MATERIALIZE = layerwise.materialize_layer


class Scratch(TorchFunctionMode):
    """While it is entered, `torch.empty_strided` hands out one piece of memory, from its beginning
    each time.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._renew()

    def _renew(self) -> None:
        self._memory, self._used = torch.empty(self._size, dtype=torch.uint8), 0
        self._alone = self._holders()

    def _holders(self) -> int:
        return int(torch._C._storage_Use_Count(self._memory.untyped_storage()._cdata))

    def __enter__(self) -> Scratch:
        self._used = 0
        if (
            self._holders() > self._alone
        ):  # a layer has kept what it loaded into: then that is the layer's
            self._renew()
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.empty_strided:
            return func(*args, **kwargs)
        size, stride, dtype = kwargs["size"], kwargs["stride"], kwargs["dtype"]
        count = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        begin, self._used = self._used, self._used + _aligned(count * dtype.itemsize)
        return (
            self._memory[begin : begin + count * dtype.itemsize]
            .view(dtype)
            .as_strided(size, stride)
        )


class CpuReload:
    """Around one reload of `model`: made before vLLM's begins, `end`ed after it; in between nothing
    may be generated.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        map_large_tensors(
            True
        )  # the scratch goes back to the system, and leaves no hole among what is packed
        self._scratch = Scratch(max(map(_needed, model.modules())))
        map_large_tensors(False)
        keep_freed(True)
        for module in model.modules():
            if PACKED in vars(module):
                setattr(module, PACKED, None)
        layerwise.materialize_layer = self._materialize

    def _materialize(self, layer: torch.nn.Module, info: Any) -> None:
        held, _ = info.kernel_tensors
        for name, meta in list(layer._parameters.items()):
            if meta is not None and meta.is_meta and _is_alike(held.get(name), meta):
                tensor = held[name].detach()
                tensor.__class__, tensor.__dict__ = (
                    meta.__class__,
                    dict(meta.__dict__),
                )  # vLLM's loaders look at both
                setattr(layer, name, tensor)
        with self._scratch:
            MATERIALIZE(layer, info)

    def end(self) -> None:
        """Gives the scratch back, and what has been freed meanwhile."""
        layerwise.materialize_layer = MATERIALIZE
        del self._scratch
        keep_freed(False)


def _needed(layer: torch.nn.Module) -> int:
    """Bytes that `layer`, without those below it, loads and does not hold as they are loaded."""
    parameters, buffers = layerwise.get_layerwise_info(layer).restore_metadata
    packed = [
        meta
        for name, meta in parameters.items()
        if not _is_alike(layer._parameters.get(name), meta)
    ]
    return sum(_aligned(t.numel() * t.element_size()) for t in (*packed, *buffers.values()))


def _is_alike(held: torch.Tensor | None, meta: torch.Tensor) -> bool:
    return held is not None and (held.shape, held.stride(), held.dtype) == (
        meta.shape,
        meta.stride(),
        meta.dtype,
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


ALLOCATE = gpu_model_runner.allocate_kv_cache


class Untouched(TorchFunctionMode):
    """While it is entered, `torch.zeros(bytes, dtype=torch.int8)` writes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.zeros and kwargs and kwargs.get("dtype") is torch.int8:
            memory = np.zeros(args[0] + ALIGNMENT, np.int8)
            begin = -memory.ctypes.data % ALIGNMENT
            return torch.from_numpy(memory[begin : begin + args[0]])
        return func(*args, **(kwargs or {}))


@contextmanager
def engine_memory() -> Iterator[None]:
    """While it is entered, an engine is made: its cache is not written, and each large tensor has a
    mapping of its own. The cache of later engines of this process is not written either.
    """

    def allocate(*args: Any, **kwargs: Any) -> Any:
        with Untouched():
            return ALLOCATE(*args, **kwargs)

    gpu_model_runner.allocate_kv_cache = allocate
    map_large_tensors(True)
    yield
    map_large_tensors(False)
