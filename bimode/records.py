"""Records that flow between stages and actors: frozen, slotted, picklable.

Axis suffixes are in CONTRIBUTING.md; here `T` is the tokens of one response.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bimode.modes import Mode

IMAGE_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about zero or more images, with its checkable answer and where it came from.

    Example: ``Sample(id="digits-train-7", question="...", images=(b"\\x89PNG...",), answer="15",
    trace="look : ...", transcription="2 digits : 3 8", verifier="exact", verifier_args="{}",
    guess_rate=1/23, task="digits", domain="strip", level="easy", difficulty='{"operands": 2}',
    split="train", source="scikit-learn/load_digits", source_license="BSD-3-Clause",
    source_refs=("digits/101", "digits/7"))``.
    """

    id: str
    question: str
    images: tuple[bytes, ...]
    answer: str
    trace: str  # the generator's own reasoning; labeled `oracle` wherever it is used
    transcription: str  # what the image shows, in words (R-4B's dense pre-training target)
    verifier: str
    verifier_args: str  # JSON
    guess_rate: float  # chance of a blind answer being right
    task: str
    domain: str
    level: str  # easy | mid | hard: thirds by the generator's knob
    difficulty: str  # JSON of the knobs
    split: str
    source: str
    source_license: str
    source_refs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParsedRecord:
    """A question as its record has it: `<image>` markers still in the text, choices apart, and the
    letter as answer to them.

    Example: ``ParsedRecord("Which one melts?", "B", choices=("wood", "ice"), trace="Ice is
    frozen water ...")``.
    """

    question: str
    answer: str
    images: tuple[bytes, ...] = ()
    trace: str = ""
    choices: tuple[str, ...] = ()
    id: str = ""
    task: str = ""
    level: str = ""
    number_args: str = "{}"  # JSON for verifier `number`: how near an answer must be


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a rollout worker needs to generate, and what a verifier needs to judge.

    `refused`: why its row cannot be used (`bimode.inputs.prompt_limits`); no worker generates for
    such a prompt.
    """

    id: str
    question: str
    images: tuple[bytes, ...]
    answer: str
    verifier: str
    verifier_args: str
    task: str
    level: str
    tag: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """One response. `token_ids_T` holds everything after ``<think>``: the forced part of the
    trigger, then what was generated.

    Example, direct mode: ``token_ids_T=(271, 151668, 271, 22, 151645)``, ``num_forced=2``: the
    first two were the trigger.
    """

    prompt_id: str
    mode: Mode
    prompt_ids: tuple[
        int, ...
    ]  # as the learner sees it, image placeholders expanded, up to and with <think>
    token_ids_T: tuple[int, ...]
    num_forced: int
    logprobs_T: tuple[float, ...]  # behavior policy; NaN on forced tokens
    versions_T: tuple[
        int, ...
    ]  # policy version that produced each token (forced tokens: that of the request)
    text: str
    finished: bool  # False: cut off by the token limit
    worker: str

    @property
    def num_tokens(self) -> int:
        """Tokens after ``<think>``: the same count in every mode, so that modes compare."""
        return len(self.token_ids_T)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """All completions of one prompt in one step, with their rewards in the same order. Their policy
    versions differ by at most `bpo.max_staleness`. `reference_reward` is the mean reward of the
    starting policy in auto mode (AdaptThink); NaN for algorithms that do not use it.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards_G: tuple[float, ...]
    reference_reward: float = math.nan

    def of(self, mode: Mode) -> tuple[Completion, ...]:
        """Return the completions drawn in `mode`."""
        return tuple(c for c in self.completions if c.mode is mode)

    def mean_reward(self, mode: Mode) -> float:
        """Return the mean reward of the completions drawn in `mode`; there must be at least one."""
        rewards = [
            r for c, r in zip(self.completions, self.rewards_G, strict=True) if c.mode is mode
        ]
        return math.fsum(rewards) / len(
            rewards
        )  # exact, so that the order of completions decides no tie


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """A sequence for the learner: prompt, response, and per response token a weight, an advantage
    and a behavior log-prob.

    `loss_mask_T` is 0 where a token is context only. SFT leaves `advantages_T` at 1 and the
    log-probs NaN.
    """

    prompt_ids: tuple[int, ...]
    token_ids_T: tuple[int, ...]
    loss_mask_T: tuple[float, ...]
    advantages_T: tuple[float, ...]
    behavior_logprobs_T: tuple[float, ...]
    images: tuple[bytes, ...]
    mode: Mode
    origin: str  # id of the row it came from
    versions_T: tuple[int, ...]  # policy version that drew each token; 0 for SFT
    level: str = ""  # of the question, for metrics; SFT leaves it empty


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`n` completions of one prompt in one mode. `temperature` 0 is greedy; equal seeds give equal
    samples.

    `first`: the number of the first of them, so that two requests, of 0 to 3 and of 4 to 7, draw
    what one of 0 to 7 does. `repetition_penalty`: above 1, tokens that stand in the prompt or the
    response already become less likely (vLLM's). `choices`: the response is one of these texts and
    nothing else; empty: anything.
    """

    prompt: Prompt
    mode: Mode
    n: int
    temperature: float
    max_tokens: int
    seed: int
    repetition_penalty: float = 1.0
    choices: tuple[str, ...] = ()
    first: int = 0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The result of a `GenerationRequest`: its `n` completions in order, or none and the reason.

    Example: ``GenerationResult((), refused="5 images, at most 4")``.
    """

    completions: tuple[Completion, ...]
    refused: str = ""  # why the engine does not take the prompt; empty where it did


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """A prompt as vLLM gets it, and as vLLM must expand it.

    `token_ids` has one placeholder an image, `expanded_ids` as many as the image has embeddings:
    the learner's view.
    """

    token_ids: tuple[int, ...]
    expanded_ids: tuple[int, ...]
    images: tuple[Any, ...] = ()  # decoded

    def followed_by(self, forced: tuple[int, ...]) -> EnginePrompt:
        """Return the prompt with the tokens `forced` after it."""
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
