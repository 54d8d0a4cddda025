"""Attempts for tagging: n responses a row in each mode, by the same rollout workers and the same
verifiers as in BPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bimode.grading.verify import code_digest
from bimode.modes import Mode
from bimode.plugins import digests
from bimode.records import GenerationRequest
from bimode.storage.dataset import Row
from bimode.storage.run_dir import digest_json
from data_curation.sampling.prompt_job import PromptJob

MODES = (Mode.NON_THINKING, Mode.THINKING)


class Tagger(PromptJob):
    """The model whose attempts decide the tags; `config` is `curate.rollouts`.

    More attempts than before go on with the draws of the same seed: equal to all of them at once.
    """

    __slots__ = ()
    modes: ClassVar[tuple[Mode, ...]] = MODES

    @property
    def decides(self) -> Sequence[Any]:
        """The verifiers' code: what passed under other code may be wrong now."""
        return [code_digest()]

    def missing(self, row: Row) -> int:
        return max(0, int(self.config.n - row["first"]))

    def request(self, row: Row, renderer: Any) -> GenerationRequest:
        seed = self.draw_seed(row["id"], row["request_mode"], 0)
        return replace(super().request(row, renderer), seed=seed, first=row["first"])


def content_of(row: Row) -> str:
    """Digest of what an attempt at `row` and its verdict depend on."""
    judged = [row["answer"], row["verifier"], row["verifier_args"], digests([row["verifier"]])]
    return digest_json([row["prompt"], row["image_sha256"], *judged])
