"""Samples -> packed rows and back: several sequences share a row, told apart by position ids that start again at 0.

Transformers reads a block-diagonal mask off such position ids when no attention mask is given, so neither text nor
images see across the border (tests/bimode/test_packing.py holds packed equal to unpacked).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from bimode.records import TrainingSample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch. `B` rows of `T` tokens; `N` response tokens over all rows, in the order of the samples.

    `at_N` points into the flattened [B * T] hidden states at the position that *predicts* each response token.
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    vision_names: tuple[str, ...]  # keyword names of the image processor's outputs, e.g. ("pixel_values",)
    vision: tuple[Tensor, ...]  # each concatenated over the images in row order
    at_N: Tensor
    targets_N: Tensor
    sample_N: Tensor  # index of the sample each token belongs to
    first_N: Tensor  # True at the first response token of each sample
    loss_mask_N: Tensor
    advantages_N: Tensor
    behavior_logprobs_N: Tensor  # NaN: not known, the learner takes its own

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if not f.name.startswith("vision")}
        return replace(self, vision=tuple(v.to(device) for v in self.vision), **tensors)


def plan_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """First-fit decreasing: sample indices per row, none over `row_tokens` (a longer sample gets a row of its own)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row, free in enumerate(room):
            if lengths[i] <= free:
                rows[row].append(i)
                room[row] -= lengths[i]
                break
        else:
            rows.append([i])
            room.append(row_tokens - lengths[i])
    return rows


def plan_micro_batches(lengths: Sequence[int], *, row_tokens: int, micro_rows: int) -> list[list[int]]:
    """Sample indices of each micro-batch: at most `micro_rows` packed rows each, as evenly filled as the rows allow."""
    rows = plan_rows(lengths, row_tokens)
    count = -(-len(rows) // micro_rows)
    return [[i for row in rows[k::count] for i in row] for k in range(count)]


def split_evenly(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Sample indices of each of `parts` shares with about equal sums of `lengths` (longest first, to the lightest share)."""
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(i)
        loads[lightest] += lengths[i]
    return [sorted(share) for share in shares]


def pack(
    samples: Sequence[TrainingSample],
    vision_of: Sequence[tuple[tuple[str, Tensor], ...]],
    *,
    row_tokens: int,
    pad_id: int,
) -> PackedBatch:
    """Packs `samples` (with `vision_of[i]` the processed images of sample i) into rows of at most `row_tokens`."""
    ids = [(*s.prompt_ids, *s.token_ids_T) for s in samples]
    rows = plan_rows([len(i) for i in ids], row_tokens)
    width = max(sum(len(ids[i]) for i in row) for row in rows)
    input_ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids_BT = torch.zeros((len(rows), width), dtype=torch.long)
    at: dict[int, Tensor] = {}
    for b, row in enumerate(rows):
        col = 0
        for i in row:
            n, prompt = len(ids[i]), len(samples[i].prompt_ids)
            input_ids_BT[b, col : col + n] = torch.tensor(ids[i])
            position_ids_BT[b, col : col + n] = torch.arange(n)
            at[i] = b * width + col + torch.arange(prompt - 1, n - 1)
            col += n
        position_ids_BT[b, col:] = torch.arange(width - col)  # padding is a sequence of its own
    order = [i for row in rows for i in row]
    parts = [dict(vision_of[i]) for i in order if vision_of[i]]  # a text sample beside images adds nothing
    names = tuple(parts[0]) if parts else ()

    def tokens(field: str) -> Tensor:
        return torch.tensor([x for s in samples for x in getattr(s, field)], dtype=torch.float32)

    return PackedBatch(
        input_ids_BT=input_ids_BT,
        position_ids_BT=position_ids_BT,
        vision_names=names,
        vision=tuple(torch.cat([part[name] for part in parts]) for name in names),
        at_N=torch.cat([at[i] for i in range(len(samples))]),
        targets_N=torch.tensor([t for s in samples for t in s.token_ids_T], dtype=torch.long),
        sample_N=torch.tensor([i for i, s in enumerate(samples) for _ in s.token_ids_T], dtype=torch.long),
        first_N=torch.tensor([t == 0 for s in samples for t in range(len(s.token_ids_T))], dtype=torch.bool),
        loss_mask_N=tokens("loss_mask_T"),
        advantages_N=tokens("advantages_T"),
        behavior_logprobs_N=tokens("behavior_logprobs_T"),
    )
