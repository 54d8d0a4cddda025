"""A judge's worker forces nothing, and hands on how it was told to sample; without vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.rollout.chat_worker import ChatWorker
from actors.rollout.worker import RolloutWorker
from benchmarks.peers.simulated import PlainCodec
from bimode.modes import Mode
from bimode.records import EnginePrompt, EngineSample, EngineSampling, GenerationRequest, Prompt


class Engine:
    """Answers at once with one token, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts, self.sampling = list[EnginePrompt](), list[EngineSampling]()

    def begin(
        self, prompts: Sequence[EnginePrompt], sampling: Sequence[EngineSampling]
    ) -> list[str]:
        self.prompts += prompts
        self.sampling += sampling
        return [str(k) for k in range(len(prompts))]

    def step(self) -> list[tuple[str, list[EngineSample]]]:
        return [
            (str(k), [EngineSample((9,), (-1.0,), (0,), True)] * s.n)
            for k, s in enumerate(self.sampling)
        ]


def opened(worker: type[RolloutWorker]) -> Any:
    class Opened(worker):  # type: ignore[misc, valid-type]
        def open_codec(self, model_dir: Path) -> Any:
            return PlainCodec()

        def open_engine(self, model_dir: Path, dtype: str, seed: int, sync: str) -> Any:
            return Engine()

    return Opened("w", Path("m"), max_model_len=64, dtype="float32", seed=0, sync="object_store")


@pytest.mark.parametrize(("worker", "forced"), [(ChatWorker, ()), (RolloutWorker, (2, 3))])
def test_what_is_forced_and_how_it_is_sampled(
    worker: type[RolloutWorker], forced: tuple[int, ...]
) -> None:
    asked = Prompt("a", "q", (), "1", "exact", "{}", "t", "")
    made = opened(worker)
    [result] = made.generate(
        [GenerationRequest(asked, Mode.NON_THINKING, 1, 0.7, 10, 3, repetition_penalty=1.25)]
    )
    [completion] = result.completions
    [sampling] = made._engine.sampling
    assert (sampling.repetition_penalty, sampling.max_tokens, sampling.temperature) == (
        1.25,
        10 - len(forced),
        0.7,
    )
    assert completion.token_ids_T == (*forced, 9) and completion.num_forced == len(forced)
    assert made._engine.prompts[0].token_ids == (5, 0, *forced)
