"""The chat template with `thinking_mode`, and its installation on a base that has never seen the
think tags.

R-4B's published template was not obtainable; the strings are those of its section 4.1 (see
`bimode.modes`). An assistant message may hold `content` only (already in ``<think>`` form) and is
rendered as it stands.
"""

from __future__ import annotations

from typing import Any

from bimode.modes import DECIDE_DIRECT, DECIDE_THINK, THINK_CLOSE, THINK_OPEN
from bimode.records import IMAGE_MARKER

CHAT_TEMPLATE = """\
{%- set mode = thinking_mode | default('auto') -%}
{%- if mode not in ['auto', 'long', 'short'] -%}
{{- raise_exception("thinking_mode = " ~ mode ~ ": use auto, long or short") -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ['image', 'image_url', 'image_pil'] -%}{{- '<image>' -}}
{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<think>' -}}
{%- if mode == 'long' -%}{{- '\\n' -}}
{%- elif mode == 'short' -%}{{- '\\n\\n</think>' -}}{%- endif -%}
{%- endif -%}
"""


WANTED = (
    THINK_OPEN,
    THINK_CLOSE,
    DECIDE_THINK,
    DECIDE_DIRECT,
    "<|im_start|>",
    "<|im_end|>",
)  # each one token


def chat_template(image: str) -> str:
    """Return the template of a family that writes an image as `image`."""
    return CHAT_TEMPLATE.replace(IMAGE_MARKER, image)


def install(tokenizer: Any, image: str = IMAGE_MARKER) -> tuple[str, ...]:
    """Give `tokenizer` the template and the tokens that it lacks; return the added tokens.

    ``<think>`` and ``</think>`` must be single tokens, and so must ``\\n`` and ``\\n\\n``, since
    the choice of mode is one token. The caller resizes the embeddings and tells the user.
    """

    def is_single(text: str) -> bool:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return len(ids) == 1 and ids[0] != tokenizer.unk_token_id

    missing = [text for text in WANTED if not is_single(text)]
    if missing:
        from tokenizers import AddedToken

        tokenizer.add_tokens(
            [AddedToken(text, normalized=False, special=text.startswith("<|")) for text in missing]
        )
    tokenizer.chat_template = chat_template(image)
    return tuple(missing)
