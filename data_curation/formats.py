"""Tagged candidates -> the training rows they give: which of R-4B's two formats a row is taught
in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from bimode.config.curate import CurateConfig
from bimode.modes import Mode, render_response
from bimode.storage.dataset import Row, user_turn

TRANSCRIBE = "transcribe the image"


def training_rows(candidate: Row, config: CurateConfig) -> Iterator[Row]:
    """Yields the rows that a train candidate gives; ids get the format as a suffix, so each stays
    unique.

    `by_tag`: the tag's format; both if the tag is `either`, and for `paired_share` of the rows,
    chosen by a hash of the id; without a trace only the non-thinking one, since an empty trace
    would teach not to think. `transcription_and_direct` (making a base): what the image shows, and
    the bare answer.
    """
    if config.formats == "transcription_and_direct":
        if candidate["images"]:
            prompt = user_turn(TRANSCRIBE, len(candidate["images"]))
            yield _formatted(candidate, "transcription", prompt, candidate["transcription"])
        yield _formatted(candidate, "non_thinking", candidate["prompt"], candidate["answer"])
        return
    both = candidate["mode"] == "either" or is_paired(candidate["id"], config)
    for mode in (Mode.NON_THINKING, Mode.THINKING):
        taught = both or candidate["mode"] == mode.value
        if taught and (mode is Mode.NON_THINKING or has_trace(candidate)):
            yield _formatted(candidate, mode.value, candidate["prompt"], candidate["answer"])


def has_trace(candidate: Row) -> bool:
    """Whether there is any reasoning to teach."""
    return bool(candidate["trace"].strip())


def is_paired(row_id: str, config: CurateConfig) -> bool:
    """Whether a train row is exported in both formats whatever its tag."""
    return share_of(row_id) < config.paired_share


def share_of(row_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.blake2b(row_id.encode(), digest_size=6).digest()) / (1 << 48)


def _formatted(candidate: Row, name: str, prompt: list[Row], answer: str) -> Row:
    mode, trace_source = Mode.NON_THINKING, ""
    if name == "thinking":
        mode, trace_source = Mode.THINKING, candidate["trace_source"] or "oracle"
    text = render_response(mode, candidate["trace"], answer)
    return candidate | {
        "id": f"{candidate['id']}-{name}",
        "parent_ids": [candidate["id"]],
        "prompt": prompt,
        "messages": [*prompt, {"role": "assistant", "content": text}],
        "answer": answer,
        "format": name,
        "trace_source": trace_source,
    }
