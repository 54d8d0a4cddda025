"""Conversations: chat messages in OpenAI's form, and LLaVA's from / value. The last turn of the
assistant is the answer.

What was said before it is the question, as a transcript where it is more than one turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from bimode.config.curate import SourceConfig
from bimode.modes import THINK_CLOSE, THINK_OPEN, parse_response
from bimode.records import IMAGE_MARKER, ParsedRecord
from data_curation.sources.files import ReadImage
from data_curation.sources.layouts.fields import (
    BAD,
    Refused,
    cell,
    image,
    images,
    scalar_text,
    shown,
    text,
)
from data_curation.sources.readers import Record

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `images` are those that stand in it itself, for others there is a marker in the
    text.
    """

    role: str  # user | assistant | system
    text: str
    images: tuple[bytes, ...] = ()


def chat(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """`messages` of role and content (text, or parts of text and images); `images` or `image` where
    messages hold none.

    Without a turn of the assistant `answer` is the answer, as in data for reinforcement learning.
    """
    turns = [_chat_turn(each, read_image) for each in _list(record, "messages")]
    if record.get("answer") is not None and all(turn.role != "assistant" for turn in turns):
        turns.append(Turn("assistant", scalar_text(record["answer"], "answer")))
    return _draft(turns, "messages", record, read_image, source.split == "decontaminate")


def llava(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """`conversations` of from (human, gpt) and value, and `image` or `images`."""
    turns = []
    for each in _list(record, "conversations"):
        if not isinstance(each, dict):
            raise Refused(BAD, f"conversations: {type(each).__name__}, not a turn")
        turns.append(
            Turn(_role(each.get("from"), "conversations"), text(each.get("value"), "conversations"))
        )
    return _draft(turns, "conversations", record, read_image, source.split == "decontaminate")


def _draft(
    turns: list[Turn], column: str, record: Record, read_image: ReadImage, may_lack_answer: bool
) -> ParsedRecord:
    last = max((at for at, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        if not may_lack_answer:
            raise Refused("empty_answer", f"{column}: no turn of the assistant")
        turns, last = [*turns, Turn("assistant", "")], len(turns)
    if turns[last].images:
        raise Refused(BAD, f"{column}: an image in the answer")
    trace, answer = _split_reasoning(turns[last].text, column)
    inline = tuple(data for turn in turns[:last] for data in turn.images)
    name = "image" if record.get("images") is None else "images"
    return ParsedRecord(
        _question(turns[:last], column),
        answer,
        inline or images(record.get(name), name, read_image),
        trace,
    )


def _question(turns: list[Turn], column: str) -> str:
    asked = [turn for turn in turns if turn.role != "system"]
    if not any(turn.role == "user" for turn in asked):
        raise Refused("empty_question", f"{column}: no turn of a user before the answer")
    told = [turn.text for turn in turns if turn.role == "system"]
    if len(asked) == 1:
        return "\n\n".join([*told, asked[0].text])
    lines = []
    for turn in asked:
        words = _split_reasoning(turn.text, column)[1] if turn.role == "assistant" else turn.text
        markers = IMAGE_MARKER * words.count(IMAGE_MARKER)  # counted later, whatever their place
        lines.append(
            f"{markers}{turn.role.capitalize()}: {words.replace(IMAGE_MARKER, '').strip()}"
        )
    return "\n\n".join([*told, *lines])


def _split_reasoning(words: str, column: str) -> tuple[str, str]:
    """(trace, answer) of an assistant's text; no trace where it does not think."""
    if THINK_OPEN not in words and THINK_CLOSE not in words:
        return "", words
    response = parse_response(words)
    if not response.closed:
        raise Refused(BAD, f"{column}: {THINK_OPEN} without {THINK_CLOSE}")
    return response.trace, response.answer


def _chat_turn(message: object, read_image: ReadImage) -> Turn:
    if not isinstance(message, dict):
        raise Refused(BAD, f"messages: {type(message).__name__}, not a message")
    role, content = _role(message.get("role"), "messages"), message.get("content")
    if not isinstance(content, list):
        return Turn(role, text(content, "messages"))
    words, pictures = [], []
    for part in content:
        if isinstance(part, str):
            words.append(text(part, "messages"))
        elif not isinstance(part, dict):
            raise Refused(BAD, f"messages: {type(part).__name__}, not a part of a message")
        elif part.get("type") == "text":
            words.append(text(part.get("text"), "messages"))
        elif part.get("type") not in ("image", "image_url"):
            raise Refused(BAD, "messages: a part that is neither text nor image")
        elif (
            payload := next(
                (part[key] for key in ("image_url", "image") if part.get(key) is not None), None
            )
        ) is None:
            words.append(IMAGE_MARKER)  # the image is in the column
        else:
            pictures.append(image(payload, "messages", read_image))
    return Turn(role, "\n".join(words).strip(), tuple(pictures))


def _role(value: object, column: str) -> str:
    role = ROLES.get(text(value, column))
    if role is None:
        raise Refused(BAD, f"{column}: role {shown(text(value, column))}")
    return role


def _list(record: Record, column: str) -> list[object]:
    value = cell(record, column)
    if not isinstance(value, list):
        raise Refused(BAD, f"{column}: {type(value).__name__}, not a list")
    return value
