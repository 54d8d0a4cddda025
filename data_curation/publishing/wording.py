"""What the card, Croissant, the report page and `bimode explain` say in the same words
(docs/formats.md has more).
"""

from __future__ import annotations

COLUMNS = {  # of a published row
    "id": "Id of the row; in train that of the question with the format as a suffix.",
    "images": "The images, PNG or JPEG bytes; `datasets` decodes them.",
    "prompt": "The user turn, an `<image>` an image before the question.",
    "messages": "In train the prompt and the assistant's text from `<think>` on; else the prompt.",
    "answer": "What the verifier compares with.",
    "answer_type": "`int` or `word`.",
    "verifier": (
        "Who judges an answer: `exact`, `int`, `number`, `choice`, `math`, `reasoning_gym`, `open`."
    ),
    "verifier_args": "Its arguments, as JSON.",
    "mode": "The tag: `thinking`, `non_thinking` or `either`.",
    "mode_reason": (
        "What the tag rests on: `pass_rate` (rollouts), `judge` (a model's verdict), `untagged`"
        " (nothing)."
    ),
    "mode_conf": "Confidence of the tag, 0 to 1.",
    "n_rollouts": "Attempts at the question in each mode.",
    "n_pass_non_thinking": "Right answers among the direct attempts.",
    "n_pass_thinking": "Right answers among the attempts with reasoning.",
    "pass_rate_non_thinking": (
        "Share of direct attempts that were right, not corrected for guessing; null where untagged."
    ),
    "pass_rate_thinking": "Share of attempts with reasoning that were right; null where untagged.",
    "rollout_model": "The model whose rollouts or verdicts the tag rests on.",
    "rollout_params_hash": "Digest of its weights and of how it was sampled.",
    "task": "Family, puzzle or the source's own name of the task.",
    "domain": "Kind of picture, or `text`.",
    "level": "`easy`, `mid` or `hard` by the generator's knob; empty where the source has none.",
    "difficulty": "The generator's knobs, as JSON.",
    "guess_rate": "How often a blind answer is right.",
    "split": "`train`, `rl` or `eval`.",
    "source": "Where the raw material comes from.",
    "source_license": "License of the raw material.",
    "source_refs": "Items of the source that the question is made of.",
    "parent_ids": "The question that a train row was made of.",
    "ops": "What was done to the row, in order, each step with the digest of its settings.",
    "image_sha256": "Digest over mode, size and pixels of the decoded images.",
    "image_phash": "Perceptual hash of the images.",
    "dup_group": "Id of the row that stands for all rows that are the same.",
    "contamination": (
        "Whether the row was compared with evaluation items, how, and which it repeats."
    ),
    "format": "What a train row teaches: `thinking`, `non_thinking` or `transcription`.",
    "trace_source": (
        "Whose the reasoning is: `oracle` of the source itself, else the model's name; empty where"
        " none is shown."
    ),
}
RULES = {
    "non_thinking_good": "direct answers are surely good enough",
    "non_thinking_poor": "direct answers are surely poor",
    "non_thinking_unclear": "the counts do not say, so both formats are taught",
    "thinking_no_better": (
        "direct answers are poor, and thinking does no better, so both formats are taught"
    ),
    "r4b_all_failed": "every direct attempt failed",
    "r4b_some_passed": "a direct attempt was right",
    "judge_majority": "most verdicts of the judge say so",
    "judge_tied": "the judge's verdicts are tied, so both formats are taught",
}  # lines of the tag rules (`data_curation.tagging.tags`, `data_curation.tagging.judge`)


def short(text: object, most: int) -> str:
    """`text` on one line, with at most `most` characters, all printable: a terminal obeys what it
    is told in others.
    """
    line = " ".join(str("" if text is None else text).split())
    line = line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (
        line
        if line.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    )
