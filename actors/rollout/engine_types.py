"""What goes into a generation engine and what comes out of it: ids, log-probabilities, and the
version that drew each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """What vLLM is given, and what it has to make of it.

    `token_ids` has one placeholder an image, `expanded_ids` as many as the image has embeddings:
    the learner's view.
    """

    token_ids: tuple[int, ...]
    expanded_ids: tuple[int, ...]
    images: tuple[Any, ...] = ()  # decoded

    def followed_by(self, forced: tuple[int, ...]) -> EnginePrompt:
        """The prompt with the tokens `forced` behind it."""
        return EnginePrompt(self.token_ids + forced, self.expanded_ids + forced, self.images)


@dataclass(frozen=True, slots=True)
class EngineSampling:
    """How samples are drawn. `seed` is the first of `n` consecutive ones; `temperature` 0 is
    greedy, with n = 1; `choices` are all that may be said, unless there are none.
    """

    n: int
    temperature: float
    max_tokens: int
    seed: int
    stop_id: int
    banned_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSample:
    """Generated ids, log-probability and weight version of each, and whether the stop token ended
    it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    stopped: bool
