"""The nccl engines of vLLM, trainer and worker, whole call sequence, on a CPU: the communicator and
the CUDA streams alone are stood in for. Run as a program by `test_weight_sender.py`, since it
patches torch.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from types import SimpleNamespace
from typing import Any

import ray
import torch
import vllm.distributed.weight_transfer.nccl_engine as nccl
import vllm.distributed.weight_transfer.packed_tensor as packing

from actors.weights.sender import WeightSender

BUFFER = 100_000  # bytes: the parameters below need several, and one is larger
STREAM = SimpleNamespace(synchronize=lambda: None)


class Broadcast:
    """A broadcast group of one sender and `n` receivers, in one process."""

    def __init__(self, n: int) -> None:
        self._queues: list[queue.Queue[torch.Tensor]] = [queue.Queue() for _ in range(n)]

    def sender(self, _info: Any) -> Any:
        return SimpleNamespace(broadcast=self._send, destroy=lambda: None)

    def receiver(self, i: int) -> Any:
        def receive(tensor: torch.Tensor, src: int, stream: Any = None) -> None:
            tensor.copy_(self._queues[i].get(timeout=30))

        return SimpleNamespace(broadcast=receive)

    def _send(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        for each in self._queues:
            each.put(tensor.clone())


class Worker:
    """The calls of a rollout worker over vLLM's worker engine; each `remote` runs in a thread."""

    def __init__(self, group: Broadcast, i: int) -> None:
        self.received: dict[str, torch.Tensor] = {}
        self.ranks: list[int] = []
        self._group, self._i = group, i
        self._engine = object.__new__(nccl.NCCLWeightTransferEngine)
        self._engine.device = torch.device("cpu")
        self._engine.model = SimpleNamespace(load_weights=self._load)
        self.init_transfer = SimpleNamespace(remote=lambda info: started(self._init, info))
        self.update = SimpleNamespace(
            remote=lambda info: started(self._engine.update_weights, info)
        )

    def _load(self, weights: Any) -> None:
        self.received |= {name: tensor.clone() for name, tensor in weights}

    def _init(self, info: dict[str, Any]) -> None:
        self.ranks.append(info["rank_offset"])
        parsed = self._engine.parse_init_info(info)
        self._engine.packed = parsed.packed
        self._engine.packed_buffer_size_bytes = BUFFER
        self._engine.packed_num_buffers = parsed.packed_num_buffers
        self._engine.model_update_group = self._group.receiver(self._i)


def started(call: Any, argument: Any) -> threading.Thread:
    thread = threading.Thread(target=call, args=(argument,))
    thread.start()
    return thread


def stand_in(group: Broadcast) -> None:
    packing._get_streams = lambda _device, n: (STREAM,) * n
    nccl.open_trainer_endpoint = group.sender
    torch.cuda.stream = lambda _stream: contextlib.nullcontext()
    torch.cuda.current_stream = lambda *_: STREAM
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = lambda *_: None
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.synchronize = lambda *_: None
    ray.get = lambda threads: [thread.join(60) for thread in threads]


def main() -> None:
    group = Broadcast(2)
    stand_in(group)
    layers = torch.nn.Linear(300, 200), torch.nn.Linear(200, 300), torch.nn.Linear(7, 5)
    model = torch.nn.Sequential(*layers).to(torch.bfloat16)
    workers = [Worker(group, i) for i in range(2)]
    sender = WeightSender(model, workers, sync="nccl", rank=0, address="127.0.0.1", port=1)
    sender._engine.packed_buffer_size_bytes = BUFFER
    for update in range(3):
        with torch.no_grad():
            model[0].weight += 1
        if update < 2:  # the third change is not sent
            sender.send()
        for worker in workers:
            equal = [torch.equal(worker.received[n], p) for n, p in model.named_parameters()]
            print(update, len(equal), all(equal))
    print([worker.ranks for worker in workers])


if __name__ == "__main__":
    sys.exit(main())
