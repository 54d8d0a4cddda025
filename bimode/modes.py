"""The two modes and their strings: one definition for curation, training, rollouts, evaluation,
template and API.

R-4B (arXiv 2508.21113, section 4.1) forces a mode by what follows the assistant header:

    auto          <think>                      the model chooses the next token
    thinking      <think>\\n                    it will reason
    non_thinking  <think>\\n\\n</think>          it answers at once

so the whole choice is one token after ``<think>``: ``\\n`` against ``\\n\\n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bimode.errors import ConfigError

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
DECIDE_THINK = "\n"
DECIDE_DIRECT = "\n\n"


class Mode(StrEnum):
    """How a response is produced; the value is the word used in reports and Parquet."""

    AUTO = "auto"
    THINKING = "thinking"
    NON_THINKING = "non_thinking"


TRIGGERS: dict[Mode, str] = {
    Mode.AUTO: THINK_OPEN,
    Mode.THINKING: THINK_OPEN + DECIDE_THINK,
    Mode.NON_THINKING: THINK_OPEN + DECIDE_DIRECT + THINK_CLOSE,
}

# The words of R-4B's chat template and API (`thinking_mode=`).
TEMPLATE_WORDS: dict[Mode, str] = {
    Mode.AUTO: "auto",
    Mode.THINKING: "long",
    Mode.NON_THINKING: "short",
}


@dataclass(frozen=True, slots=True)
class ModeTokens:
    """Token ids that carry the choice, read off the actual tokenizer.

    Example (Qwen3): ``ModeTokens(open=151667, think=198, direct=271, close=151668)``.
    """

    open: int
    think: int
    direct: int
    close: int

    def trigger(self, mode: Mode) -> tuple[int, ...]:
        """Return the ids that are appended to the prompt to force `mode`."""
        return {
            Mode.AUTO: (self.open,),
            Mode.THINKING: (self.open, self.think),
            Mode.NON_THINKING: (self.open, self.direct, self.close),
        }[mode]


def mode_tokens(tokenizer: Any) -> ModeTokens:
    """Read the four ids and prove that each trigger string encodes to exactly those ids.

    Raises ConfigError if the choice between the modes is not a single token of this tokenizer.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    thinking, direct = ids(TRIGGERS[Mode.THINKING]), ids(TRIGGERS[Mode.NON_THINKING])
    if (
        len(thinking) != 2
        or len(direct) != 3
        or thinking[0] != direct[0]
        or thinking[1] == direct[1]
    ):
        raise ConfigError(
            "tokenizer",
            f"{TRIGGERS[Mode.THINKING]!r} -> {thinking}, {TRIGGERS[Mode.NON_THINKING]!r} ->"
            f" {direct}",
            "the mode must be decided by one token after <think>; add the tags with"
            " bimode.models.template.install",
        )
    tokens = ModeTokens(open=thinking[0], think=thinking[1], direct=direct[1], close=direct[2])
    for mode in Mode:
        if ids(TRIGGERS[mode]) != tokens.trigger(mode):
            raise ConfigError(
                "tokenizer",
                f"{mode} trigger -> {ids(TRIGGERS[mode])}",
                f"expected {tokens.trigger(mode)}",
            )
    return tokens


def decides_direct(text: str) -> bool:
    """Whether the response `text` (all after ``<think>``) chose the non-thinking mode, whatever it
    did then.
    """
    return text.startswith(DECIDE_DIRECT)


def render_response(mode: Mode, trace: str, answer: str) -> str:
    """Return assistant text in R-4B's form, from ``<think>`` on: the trace is left out in non-
    thinking mode.
    """
    if mode is Mode.THINKING:
        return f"{THINK_OPEN}\n{trace.strip()}\n{THINK_CLOSE}\n\n{answer}"
    return f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n{answer}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A response taken apart; `closed` is False when the reasoning was cut off before
    ``</think>``.
    """

    trace: str
    answer: str
    closed: bool

    @property
    def is_thinking(self) -> bool:
        """Thinking means that anything but white space stands between the tags."""
        return bool(self.trace.strip())


def parse_response(text: str) -> Parsed:
    """Split assistant text (with or without the leading ``<think>``) into trace and answer."""
    body = text.removeprefix(THINK_OPEN) if text.startswith(THINK_OPEN) else text
    trace, close, answer = body.partition(THINK_CLOSE)
    if not close:
        return Parsed(trace=body.strip(), answer="", closed=False)
    return Parsed(trace=trace.strip(), answer=answer.strip(), closed=True)
