"""What an engine takes in one prompt: the one statement for curation, rollouts and serving.

A prompt fits if it has at most `max_images` images and, with its images expanded and the longest
trigger of a mode behind it, leaves at least one token of `max_model_len` for a response.

A row of a data folder that fails a check costs itself. It becomes a prompt without content that
says why in `refused`: the rollout worker gives that as its result, an evaluation lists it and
counts it as wrong, and BPO's ledger has it as `refused`. Pictures are decoded later, once, by the
worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bimode.errors import RefusedPromptError
from bimode.grading.verify import new_budget
from bimode.inputs.pictures import picture_header
from bimode.inputs.row_check import check_answer, check_columns, check_text
from bimode.inputs.text import ControlTokens
from bimode.records import Prompt
from bimode.renderer import Renderer
from bimode.storage.dataset import PROMPT_COLUMNS, Row, check_split, read_rows, row_prompt
from bimode.storage.run_dir import digest_json, digest_without_weights

MAX_IMAGES = 4  # of one prompt; vLLM sizes its encoder budget by it


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """The limits of one model. Example: ``PromptLimits(max_images=4, max_model_len=256,
    max_forced=2)``.
    """

    max_images: int  # 0 for a text model
    max_model_len: int  # tokens of prompt and response together
    max_forced: int  # tokens that the longest trigger of a mode puts behind ``<think>``

    @classmethod
    def of(cls, renderer: Renderer, max_model_len: int) -> PromptLimits:
        """The limits of the model of `renderer`, in an engine of `max_model_len` tokens."""
        max_images = MAX_IMAGES if renderer.kind == "image_text" else 0
        return cls(max_images, max_model_len, renderer.max_forced)

    @property
    def max_tokens(self) -> int:
        """Most tokens of a prompt, its images expanded, up to and with ``<think>``."""
        return self.max_model_len - self.max_forced - 1

    def check_images(self, num_images: int) -> None:
        """Raises RefusedPromptError for more images than one prompt may have."""
        if num_images > self.max_images:
            limit = (
                f"at most {self.max_images}" if self.max_images else "but the model reads text only"
            )
            raise RefusedPromptError("prompt", "too_many_images", f"{num_images} images, {limit}")

    def check_tokens(self, num_tokens: int) -> None:
        """Raises RefusedPromptError for a prompt that leaves no room for a response."""
        if num_tokens > self.max_tokens:
            limit = f"at most {self.max_tokens} (max_model_len = {self.max_model_len}"
            response = f"{self.max_forced + 1} of them for the response)"
            raise RefusedPromptError(
                "prompt", "long_prompt", f"{num_tokens} tokens, {limit}, {response}"
            )

    def check(self, renderer: Renderer, question: str, images: Sequence[bytes]) -> None:
        """Raises RefusedPromptError for a prompt that does not fit; `renderer` is the model's."""
        self.check_images(len(images))
        self.check_tokens(renderer.num_prompt_tokens(question, images))


@dataclass(frozen=True, slots=True)
class PromptModel:
    """A model directory, and the `max_model_len` of the engines that it runs in. Picklable."""

    path: Path
    max_model_len: int

    @property
    def key(self) -> str:
        """Digest of all that decides whether a prompt fits; the weights do not."""
        return digest_json([digest_without_weights(self.path), self.max_model_len, MAX_IMAGES])

    @property
    def control_tokens(self) -> ControlTokens:
        """What no text of a row may hold."""
        renderer, _ = _opened(self)
        return renderer.control_tokens

    def refusal(self, question: str, images: Sequence[bytes]) -> tuple[str, str]:
        """(reason, detail) for a prompt that does not fit, ("", "") for one that does."""
        renderer, limits = _opened(self)
        try:
            limits.check(renderer, question, images)
        except RefusedPromptError as error:
            return error.reason, error.detail
        return "", ""


@lru_cache(maxsize=1)
def _opened(model: PromptModel) -> tuple[Renderer, PromptLimits]:
    """Once a process: the tokenizer takes seconds to load."""
    renderer = Renderer(model.path)
    return renderer, PromptLimits.of(renderer, model.max_model_len)


def read_prompts(path: Path, split: str, own_verifiers: Collection[str] = ()) -> list[Prompt]:
    """Read the prompts of `split` below `path`, ordered by id; rows that are refused too, such as
    one with a plug-in as verifier that is not one of `own_verifiers`.

    Raises ConfigError if the split is missing, or its files have not the columns of a data set.
    """
    check_split(path, split, PROMPT_COLUMNS)
    rows = _identified(read_rows(path, split, PROMPT_COLUMNS), split)
    new_budget()
    prompts = [checked_prompt(row, own_verifiers) for row in rows]
    new_budget()  # hostile rows cost a model's answers nothing
    return sorted(prompts, key=lambda prompt: prompt.id)


def prompt_ids(path: Path, split: str) -> list[str]:
    """Read the ids of `read_prompts`, in its order."""
    check_split(path, split, ["id"])
    return sorted(row["id"] for row in _identified(read_rows(path, split, ["id"]), split))


def checked_prompt(row: Row, own_verifiers: Collection[str] = ()) -> Prompt:
    """Make a prompt of a row with a sound id; without content, if a check refuses the row."""
    try:
        check_columns(row, PROMPT_COLUMNS)
        check_text(row)
        for image in row["images"]:
            picture_header(image["bytes"] or b"")
        check_answer(row["answer"], row["verifier"], row["verifier_args"], own_verifiers)
    except RefusedPromptError as error:
        why = ": ".join(filter(None, (error.reason, error.detail)))
        return Prompt(row["id"], "", (), "", "", "", "", "", refused=why)
    return row_prompt(row)


def _identified(rows: Iterator[Row], split: str) -> Iterator[Row]:
    """`rows`, where one whose own id cannot be used is called by its place."""
    for at, row in enumerate(rows):
        try:
            check_columns(row, ["id"])
        except RefusedPromptError:
            row = row | {"id": f"{split} row {at}", "prompt": None}
        yield row
