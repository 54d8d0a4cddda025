"""A sound row, a request for a question, and a rollout worker without an engine, for tests of what
is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.rollout.worker import RolloutWorker
from bimode.modes import Mode
from bimode.records import GenerationRequest, Prompt, Sample

SOUND = Sample(
    id="a-1",
    question="what is the sum ?",
    images=(),
    answer="8",
    trace="3 + 5 = 8",
    transcription="two numbers",
    verifier="exact",
    verifier_args="{}",
    guess_rate=0.1,
    task="charts",
    domain="chart",
    level="easy",
    difficulty="{}",
    split="train",
    source="made here",
    source_license="CC0-1.0",
    source_refs=("made/1",),
)


class WithoutEngine(RolloutWorker):
    """A rollout worker that reads prompts and generates nothing."""

    def open_engine(self, *_: Any) -> None:
        return None


def reading_worker(model: Path, max_model_len: int) -> RolloutWorker:
    """A worker without an engine on `model`."""
    return WithoutEngine(
        "w", model, max_model_len=max_model_len, dtype="float32", seed=0, sync="object_store"
    )


def asked(question: str, *images: bytes) -> GenerationRequest:
    """A request for one completion in auto mode, of a prompt with the id q-7."""
    prompt = Prompt("q-7", question, images, "15", "exact", "{}", "charts", "easy")
    return GenerationRequest(prompt, Mode.AUTO, 1, 1.0, 8, 0)
