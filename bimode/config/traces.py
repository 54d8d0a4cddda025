"""`[curate.judge]` and `[curate.traces]`: who says whether an open question needs reasoning, and
where traces come from.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bimode.config.common import ConfigModel, Positive, Share
from bimode.errors import ConfigError

JUDGE_PROMPT = """\
Does a good answer to the question below need a reasoning process, or can it be given at once?
Say thinking if it takes several steps: a plan, a calculation, a comparison, a proof or \
weighing reasons against each other.
Say non_thinking if a look, a memory, a description or a short free reply is enough.
Answer with one word, thinking or non_thinking.

Question: {question}"""
SELF = "base"  # as a model's name: `model.base`
FORBIDDEN = (
    "as an ai",
    "language model",
    "i cannot see the image",
    "i can't see the image",
    "no image was provided",
    "i'm sorry",
    "i am sorry",
    "the reference answer",
    "the correct answer given",
    "according to the hint",
)


class JudgeConfig(ConfigModel):
    """R-4B's second heuristic (arXiv 2508.21113, 2.1): a model says of a question that no verifier
    can judge whether it needs reasoning. The paper states neither prompt nor votes; both are ours.
    """

    model: str = Field(
        "",
        description=(
            "directory of the judge, any chat model of vLLM's; empty: open questions are rejected"
        ),
    )
    prompt: str = Field(
        "",
        description=(
            "what it is asked, with `{question}` and perhaps `{answer}`; empty: our `JUDGE_PROMPT`"
        ),
    )
    images: bool = Field(
        True, description="show it the question's images; false for a judge of text only"
    )
    votes: Positive = Field(
        5, description="verdicts of one question; the majority decides, a tie gives both formats"
    )
    constrained: bool = Field(
        False,
        description=(
            "have it say one of the two words and nothing else, for a judge that would not; it"
            " cannot reason then"
        ),
    )
    retries: int = Field(
        2, ge=0, description="times that a reply without a verdict is drawn again with another seed"
    )
    temperature: float = Field(0.7, gt=0.0, description="of sampling; votes differ by it alone")
    max_tokens: Positive = Field(
        1024, description="generated tokens of a reply, its own reasoning included"
    )
    max_model_len: Positive = Field(8192, description="tokens of prompt and reply")
    calibration_rows: int = Field(
        200, ge=0, description="rows with pass counts that it judges too, to compare it with tags"
    )
    concurrency: Positive = Field(
        1, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`"
    )

    @field_validator("prompt")
    @classmethod
    def _can_be_filled(cls, prompt: str) -> str:
        if prompt and "{question}" not in prompt:
            raise ValueError("must hold {question}, which is where the question goes")
        try:
            prompt.format(question="", answer="")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(
                "may hold {question} and {answer}; write other braces twice, {{ and }}"
            ) from None
        return prompt

    @model_validator(mode="after")
    def _replies_fit(self) -> JudgeConfig:
        if self.max_tokens >= self.max_model_len:
            fix = (
                f"must be below curate.judge.max_model_len = {self.max_model_len}, which holds the"
                " prompt too"
            )
            raise ConfigError("max_tokens", self.max_tokens, fix)
        return self

    @property
    def template(self) -> str:
        """The prompt in use."""
        return self.prompt or JUDGE_PROMPT


class TraceConfig(ConfigModel):
    """Reasoning traces from a teacher or by self-distillation (AL-CoTD of Skywork R1V, arXiv
    2504.05599, section 3), and what any trace is refused for.
    """

    source: Literal["own", "model"] = Field(
        "own", description="`own`: `model` writes where a source has no trace; `model`: all"
    )
    model: str = Field(
        "",
        description=(
            "directory of the teacher; `base`: `model.base` itself; empty: no trace is written"
        ),
    )
    samples: Positive = Field(
        4,
        description=(
            "traces drawn at a time; one with the right answer that passes the checks is kept"
        ),
    )
    retries: int = Field(
        2,
        ge=0,
        description="times that as many are drawn again, with other seeds, where none can be kept",
    )
    choice: Literal["shortest", "seeded"] = Field(
        "shortest", description="which of several that could be kept"
    )
    temperature: float = Field(1.0, gt=0.0, description="of sampling")
    max_tokens: Positive = Field(
        48,
        description="generated tokens of trace and answer; those that force the mode come on top",
    )
    concurrency: Positive = Field(
        1, description="engines; each takes `cluster.rollout_cpus` and `rollout_gpus`"
    )
    alpha: float = Field(
        0.0,
        ge=0.0,
        description=(
            "of the repetition penalty P = min(2, exp(alpha (1 - quality))): the easier a question,"
            " the shorter its trace; 0 = none (AL-CoTD's value is not published)"
        ),
    )
    beta: float = Field(
        1.0, ge=0.0, description="weight of the text score in quality, the vision score having 1"
    )
    gamma: float = Field(1.0, ge=0.0, description="weight of the integration score")
    forbidden: tuple[str, ...] = Field(
        FORBIDDEN, description="phrases, in any case, for which a trace is refused"
    )
    template_rows: Positive = Field(
        5,
        description=(
            "rows from which on one and the same trace under different answers is a template and"
            " refused"
        ),
    )
    max_repetition: Share = Field(
        0.5, description="share of a trace of 40 words or more that repeats 4-grams it had before"
    )
    check_steps: bool = Field(
        True, description="refuse traces with a wrong step of arithmetic (`a + b = c`)"
    )

    @field_validator("forbidden")
    @classmethod
    def _say_something(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        if not all(phrase.strip() for phrase in phrases):
            raise ValueError("an empty phrase stands in every trace; leave it out")
        return tuple(phrase.casefold() for phrase in phrases)

    @property
    def penalized(self) -> bool:
        """Whether any trace is drawn under a repetition penalty."""
        return not math.isclose(self.alpha, 0.0)
