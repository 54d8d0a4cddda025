"""The key-value cache of an engine on a CPU in memory that is taken as it is used.

vLLM 0.32 writes zeros into all of it, a gigabyte by `cluster.environment`, of which a small model
may need a hundredth: that takes two seconds of an engine's start, and room that others could have.
What the system hands out is zero, and there once it is touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from vllm.v1.worker import gpu_model_runner

from bimode.storage.shared_memory import ALIGNMENT

ALLOCATE = gpu_model_runner.allocate_kv_cache


class Untouched(TorchFunctionMode):
    """While it is entered, `torch.zeros(bytes, dtype=torch.int8)` writes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.zeros and kwargs and kwargs.get("dtype") is torch.int8:
            memory = np.zeros(args[0] + ALIGNMENT, np.int8)
            begin = -memory.ctypes.data % ALIGNMENT
            return torch.from_numpy(memory[begin : begin + args[0]])
        return func(*args, **(kwargs or {}))


def reserve() -> None:
    """Engines of this process, made from here on, have it so."""

    def allocate(*args: Any, **kwargs: Any) -> Any:
        with Untouched():
            return ALLOCATE(*args, **kwargs)

    gpu_model_runner.allocate_kv_cache = allocate
