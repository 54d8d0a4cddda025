"""A rollout worker for an unchanged model, with its own chat template and no modes: what a judge
needs.
"""

from __future__ import annotations

from pathlib import Path

from actors.rollout.worker import RolloutWorker
from bimode.chat_renderer import ChatRenderer
from bimode.records import GenerationRequest


class ChatWorker(RolloutWorker):
    """Nothing is forced, whatever mode a request names."""

    def open_codec(self, model_dir: Path) -> ChatRenderer:
        return ChatRenderer(model_dir)

    def _forced(self, request: GenerationRequest) -> tuple[int, ...]:
        return ()
