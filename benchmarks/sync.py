"""Sync: seconds of stopped generation for new weights of 0.5 GB, against one reload of the same
bytes inside a worker.

The floor is what vLLM's own reload takes for arrays that lie in the worker's memory. Ours comes
from the learner through the object store, in buckets, checked on arrival, with 1 and with 2
workers; what a worker's part of that takes by itself, out of local memory, is printed beside it.
Memory is what all processes need beside the models: anonymous memory summed every 20 ms, and pages
of the object store.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.graph_parts import Figure, open_graph, open_loop, question, run
from bimode.modes import Mode
from bimode.records import GenerationRequest

LAYERS, WIDTH = 17, 768
GOAL = "<= 1.25 with 1 and with 2 workers, memory <= 0.2 of the model"


def write_model(path: Path) -> int:
    """A Qwen3 of about 0.5 GB in float32; returns its bytes."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from bimode.models.template import CHAT_TEMPLATE
    from bimode.models.tiny_llava import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return 4 * int(model.num_parameters())


def requests_of(group_id: int) -> list[GenerationRequest]:
    """As little as can be asked."""
    return [GenerationRequest(question(group_id, "digits"), Mode.AUTO, 1, 1.0, 2, seed=group_id)]


def vllms(worker: Any, named: dict[str, Any]) -> None:
    """vLLM's own reload, as it ships it."""
    import torch
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    from actors.weights.receiver import repack_tied_heads

    llm = worker._engine._llm

    @torch.inference_mode()
    def reload(model: Any) -> None:
        initialize_layerwise_reload(model)
        model.load_weights((name, torch.from_numpy(array)) for name, array in named.items())
        finalize_layerwise_reload(model, llm.llm_engine.model_config)
        repack_tied_heads(model)

    llm.apply_model(reload)


def ours(worker: Any, named: dict[str, Any]) -> None:
    """What a worker does with buckets, but for their checks."""
    worker._engine.start_update()
    worker._engine.update({"names": tuple(named), "arrays": tuple(named.values())})
    worker._engine.finish_update(worker.version())


def reloads(
    worker: Any, how: Callable[[Any, dict[str, Any]], None], model_dir: Path, rounds: int
) -> list[float]:
    """Seconds of each reload inside a worker but for the first, from arrays in its memory."""
    import torch

    from bimode.renderer import load_model

    named = {
        name: p.detach().numpy()
        for name, p in load_model(model_dir, torch.float32).named_parameters()
    }
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        how(worker, named)
        worker.reset_caches()
        found.append(round(time.perf_counter() - began, 3))
    return found[1:]


class MemoryWatch:
    """The most that the processes below this one need while a block runs, in bytes above what they
    needed when it was made.
    """

    def __init__(self) -> None:
        import psutil

        self._pids = [p.pid for p in psutil.Process().children(recursive=True)]
        self._before = self._now()

    def __enter__(self) -> MemoryWatch:
        self._most, self._over = self._now(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _now(self) -> int:
        return sum(_kilobytes(f"/proc/{pid}/status", "RssAnon") for pid in self._pids) + _kilobytes(
            "/proc/meminfo", "Shmem"
        )

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, self._now())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.extra = self._most - self._before


def _kilobytes(path: str, name: str) -> int:
    """What a line of a file of the system says, in bytes; 0 if the process is gone."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def timed(model_dir: Path, workers: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds stopped, of each round, and of the floor, in one worker and in all at once; bytes
    needed beside the models, by as many rounds more and by the floor, whose arrays are mapped from
    the model's file.
    """
    import ray

    with open_graph(model_dir, workers) as graph:
        graph.generate(
            [r for t in range(workers) for r in requests_of(t)]
        )  # what a first call loads, in each
        with open_loop(graph, folder, requests_of, groups_per_step=workers, lease_groups=1) as loop:
            loop.mark_trained(loop.batch(0), 0)
            stopped, extra, watch = [], [], MemoryWatch()
            for version in range(1, rounds + 2):
                graph.weights.push(version)
                stopped.append(
                    round(loop.mark_trained(loop.batch(version), version).waits.stopped, 3)
                )
            for version in range(rounds + 2, 2 * rounds + 2):  # watching takes time of its own
                graph.weights.push(version)
                with watch:
                    batch = loop.batch(version)
                loop.mark_trained(batch, version)
                extra.append(watch.extra)
        first, *_ = graph.fleet.actors
        local = ray.get(first.__ray_call__.remote(reloads, ours, model_dir, rounds))
        with MemoryWatch() as reload:
            alone = ray.get(first.__ray_call__.remote(reloads, vllms, model_dir, rounds))
        together = ray.get(
            [
                worker.__ray_call__.remote(reloads, vllms, model_dir, rounds)
                for worker in graph.fleet.actors
            ]
        )
    return {
        "stopped": stopped[1:],
        "first": stopped[0],
        "extra": extra,
        "floor": alone,
        "floor extra": reload.extra,
        "floors at once": [s for found in together for s in found],
        "ours from local memory": local,
    }


def benchmark(rounds: int, folder: Path) -> Figure:
    """One worker, then two."""
    size = write_model(folder / "model")
    runs: dict[str, Any] = {"bytes": size, "cpus": os.cpu_count()}
    ratios = []
    for workers in (1, 2):
        found = timed(folder / "model", workers, rounds, folder / f"run-{workers}")
        ratios.append(median(found["stopped"]) / median(found["floor"]))
        runs[f"{workers} workers"] = found | {
            "ratio": round(ratios[-1], 3),
            "memory": round(median(found["extra"]) / size, 3),
        }
        print(
            f"{workers} worker(s): stopped {median(found['stopped']):.2f} s, floor"
            f" {median(found['floor']):.2f} s, ratio {ratios[-1]:.2f}, memory"
            f" {median(found['extra']) / size:.0%} of the model (floor, in all at once:"
            f" {median(found['floors at once']):.2f} s, {found['floor extra'] / size:.0%}; ours"
            f" from local memory: {median(found['ours from local memory']):.2f} s)"
        )
    return Figure("sync", max(ratios), GOAL, runs)


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 5, benchmark)
