"""Text <-> ids for a model that is used unchanged: its own chat template, no modes (a judge of
another family).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from bimode.errors import ConfigError
from bimode.modes import Mode
from bimode.renderer import Renderer


class ChatRenderer(Renderer):
    """A `Renderer` whose prompts end where the model's own template says. Picklable like it."""

    def __reduce__(self) -> tuple[type[Renderer], tuple[Any]]:
        return ChatRenderer, (self.path,)

    @property
    def max_forced(self) -> int:
        """Nothing is forced, in any mode."""
        return 0

    @cached_property
    def eos_id(self) -> int:
        """The end of a turn: the tokenizer's end of text, which chat models make the same."""
        return int(self.tokenizer.eos_token_id)

    def prompt_text(self, question: str, num_images: int, mode: Mode = Mode.AUTO) -> str:
        """The chat prompt, images before the question.

        Raises ConfigError for a model without a template, for images that a text model is given,
        and for a control token in the question.
        """
        self.check_text(question)
        if num_images and self.kind == "text":
            raise ConfigError(
                "curate.judge.images",
                "true",
                f"{self.path} is a text model, and the question has images; set images = false",
            )
        speaker = (
            self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        )
        if speaker.chat_template is None:
            raise ConfigError(
                "curate.judge.model", self.path, "has no chat template; a judge is asked in its own"
            )
        self.check_template()
        parts = [*([{"type": "image"}] * num_images), {"type": "text", "text": question}]
        turn = {"role": "user", "content": parts if num_images else question}
        return str(speaker.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
