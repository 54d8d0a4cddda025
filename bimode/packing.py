"""Samples -> packed rows: trees of one prompt and its responses lie side by side, told apart by the attention mask.

The rollouts of a question have the same prompt and the same images. Here they share them: a tree is the prompt once, then each
response, with positions that go on from the prompt's end. A token sees the earlier ones of its own branch and of its trunk:

    row        p p p p a a a b b | q q c c c          a, b: responses to p;  c: the only one to q
    position   0 1 2 3 4 5 6 4 5 | 0 1 2 3 4
    tree       0 0 0 0 0 0 0 0 0 | 1 1 1 1 1
    branch     0 0 0 0 1 1 1 2 2 | 0 0 1 1 1          0 is the trunk

The loss and its gradient are those of each sequence alone (tests/bimode/test_packing.py), from fewer tokens: 2 g rollouts of one
question pay for its prompt and its images once.
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
    tree_BT: Tensor  # which prompt of the row a token belongs to; -1 is padding
    branch_BT: Tensor  # which of its responses, from 1; 0 is the prompt itself
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
    """First-fit decreasing: indices (of trees) per row, none over `row_tokens` (a longer one gets a row of its own)."""
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
    """Indices (of trees) of each micro-batch: at most `micro_rows` packed rows each, as evenly filled as the rows allow."""
    rows = plan_rows(lengths, row_tokens)
    count = -(-len(rows) // micro_rows)
    return [[i for row in rows[k::count] for i in row] for k in range(count)]


def split_evenly(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Indices (of trees) of each of `parts` shares with about equal sums of `lengths` (longest first, to the lightest share)."""
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(i)
        loads[lightest] += lengths[i]
    return [sorted(share) for share in shares]


def share_prompts(samples: Sequence[TrainingSample], row_tokens: int) -> list[list[int]]:
    """Sample indices of each tree: equal prompts and images, in order of appearance, as many as fit into `row_tokens`."""
    trees: list[list[int]] = []
    last: dict[object, tuple[list[int], int]] = {}  # the newest tree of each prompt, and its room for responses
    for i, s in enumerate(samples):
        prompt, length = (s.prompt_ids, s.images), len(s.token_ids_T)
        tree, room = last.get(prompt, ([], row_tokens - len(s.prompt_ids)))
        if tree and length > room:
            tree, room = [], row_tokens - len(s.prompt_ids)
        if not tree:
            trees.append(tree)
        tree.append(i)
        last[prompt] = tree, room - length
    return trees


def tree_tokens(tree: Sequence[TrainingSample]) -> int:
    """Tokens of a tree: its prompt and all of its responses."""
    return len(tree[0].prompt_ids) + sum(len(s.token_ids_T) for s in tree)


def pack(
    trees: Sequence[Sequence[TrainingSample]],
    vision_of: Sequence[tuple[tuple[str, Tensor], ...]],
    *,
    row_tokens: int,
    pad_id: int,
) -> PackedBatch:
    """Packs `trees` (with `vision_of[k]` the processed images of tree k's prompt) into rows of at most `row_tokens`.

    Samples are numbered tree by tree.
    """
    rows = plan_rows([tree_tokens(tree) for tree in trees], row_tokens)
    width = max(sum(tree_tokens(trees[k]) for k in row) for row in rows)
    input_ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids_BT = torch.zeros((len(rows), width), dtype=torch.long)
    tree_BT = torch.full((len(rows), width), -1, dtype=torch.long)
    branch_BT = torch.zeros((len(rows), width), dtype=torch.long)
    at: dict[int, list[Tensor]] = {}
    for b, row in enumerate(rows):
        col = 0
        for k in row:
            laid = _lay_out(trees[k])
            here = slice(col, col + len(laid.ids_T))
            input_ids_BT[b, here], position_ids_BT[b, here], branch_BT[b, here] = laid.ids_T, laid.positions_T, laid.branch_T
            tree_BT[b, here] = k
            at[k] = [b * width + col + at_T for at_T in laid.at]
            col = here.stop
    order = [k for row in rows for k in row]
    parts = [dict(vision_of[k]) for k in order if vision_of[k]]  # a text sample beside images adds nothing
    names = tuple(parts[0]) if parts else ()
    samples = [s for tree in trees for s in tree]

    def tokens(field: str) -> Tensor:
        return torch.tensor([x for s in samples for x in getattr(s, field)], dtype=torch.float32)

    return PackedBatch(
        input_ids_BT=input_ids_BT,
        position_ids_BT=position_ids_BT,
        tree_BT=tree_BT,
        branch_BT=branch_BT,
        vision_names=names,
        vision=tuple(torch.cat([part[name] for part in parts]) for name in names),
        at_N=torch.cat([at_T for k in range(len(trees)) for at_T in at[k]]),
        targets_N=torch.tensor([t for s in samples for t in s.token_ids_T], dtype=torch.long),
        sample_N=torch.tensor([i for i, s in enumerate(samples) for _ in s.token_ids_T], dtype=torch.long),
        first_N=torch.tensor([t == 0 for s in samples for t in range(len(s.token_ids_T))], dtype=torch.bool),
        loss_mask_N=tokens("loss_mask_T"),
        advantages_N=tokens("advantages_T"),
        behavior_logprobs_N=tokens("behavior_logprobs_T"),
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tree as a stretch of `T` tokens; `at` holds, for each response, where each of its tokens is predicted."""

    ids_T: Tensor
    positions_T: Tensor
    branch_T: Tensor
    at: list[Tensor]


def _lay_out(tree: Sequence[TrainingSample]) -> _Layout:
    prompt = len(tree[0].prompt_ids)
    lengths = [len(s.token_ids_T) for s in tree]
    trunk_end = torch.tensor([prompt - 1])  # predicts the first token of every response
    starts = [prompt + sum(lengths[:k]) for k in range(len(tree))]
    return _Layout(
        ids_T=torch.tensor([*tree[0].prompt_ids, *(t for s in tree for t in s.token_ids_T)], dtype=torch.long),
        positions_T=torch.cat([torch.arange(prompt), *(prompt + torch.arange(n) for n in lengths)]),
        branch_T=torch.repeat_interleave(torch.arange(len(tree) + 1), torch.tensor([prompt, *lengths])),
        at=[torch.cat([trunk_end, start + torch.arange(n - 1)]) for start, n in zip(starts, lengths, strict=True)],
    )
