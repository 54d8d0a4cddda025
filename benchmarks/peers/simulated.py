"""Rollout workers whose engine only waits: the real actor and protocol around generation that costs
time and no computing.

Neither vLLM nor torch nor a tokenizer is loaded, so that such a worker is there within two seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.rollout.worker import RolloutWorker
from bimode.modes import ModeTokens
from bimode.records import EnginePrompt, EngineSample, EngineSampling

MEDIAN_S, SIGMA, CAP_S = 1.0, 1.0, 20.0  # of the log-normal time of a lease
TICK_S = 0.01


class PlainCodec:
    """All questions are the same two ids."""

    tokens, eos_id, placeholder_ids = ModeTokens(open=0, think=1, direct=2, close=3), 4, ()
    kind, max_forced = "image_text", 2

    def encode_prompt(self, question: str, images: Sequence[bytes]) -> tuple[int, ...]:
        """A word and ``<think>``."""
        return 5, self.tokens.open

    def encode_unexpanded(self, question: str, num_images: int) -> tuple[int, ...]:
        """The same."""
        return self.encode_prompt(question, ())

    def decode_response(self, ids: Sequence[int]) -> str:
        """The ids, to read."""
        return " ".join(map(str, ids))


class WaitingEngine:
    """Every lease takes a time of its own, drawn from its seed; then all of its samples end at
    once, with one token.
    """

    def __init__(self, median_s: float) -> None:
        self.median_s, self.version, self.started = median_s, 0, 0
        self._until: dict[
            str, tuple[float, int, int]
        ] = {}  # key: when it ends, samples, stop token

    def begin(
        self, prompts: Sequence[EnginePrompt], sampling: Sequence[EngineSampling]
    ) -> list[str]:
        """Takes a lease in."""
        until = time.monotonic() + min(
            random.Random(sampling[0].seed).lognormvariate(0.0, SIGMA) * self.median_s, CAP_S
        )
        keys = [f"{self.started}-{i}" for i in range(len(prompts))]
        self.started += 1
        self._until |= {key: (until, s.n, s.stop_id) for key, s in zip(keys, sampling, strict=True)}
        return keys

    def step(self) -> list[tuple[str, list[EngineSample]]]:
        """Waits for a moment; what has ended."""
        now = time.monotonic()
        done = [key for key, (until, _, _) in self._until.items() if until <= now]
        if not done:
            time.sleep(TICK_S)
        ended = [(key, self._until.pop(key)) for key in done]
        return [
            (key, [EngineSample((stop,), (-1.0,), (self.version,), True)] * n)
            for key, (_, n, stop) in ended
        ]

    def init_transfer(self, init_info: dict[str, Any]) -> None:
        """There is no group."""

    def start_update(self) -> None:
        """Weights are coming."""

    def update(self, update_info: dict[str, Any]) -> None:
        """They are not looked at."""

    def missing_parameters(self) -> list[str]:
        """None of the model's is looked at."""
        return []

    def finish_update(self, version: int) -> None:
        """Tokens carry `version` from here on."""
        self.version = version

    def reset_prefix_cache(self) -> None:
        """There is none."""

    def reset_encoder_cache(self) -> None:
        """There is none."""


class SimulatedWorker(RolloutWorker):
    """A rollout worker around a `WaitingEngine`."""

    median_s = MEDIAN_S

    def open_codec(self, model_dir: Path) -> PlainCodec:
        return PlainCodec()

    def open_engine(self, model_dir: Path, dtype: str, seed: int, sync: str) -> WaitingEngine:
        return WaitingEngine(self.median_s)


class PromptWorker(SimulatedWorker):
    """One whose leases end within milliseconds."""

    median_s = 0.01
