"""Packs samples into one line of tokens: trees of a prompt and its responses lie side by side,
without padding.

The rollouts of a question have the same prompt and the same images. Here they share them: a tree is
the prompt once, then each response, with positions that go on from the prompt's end. A response
sees its prompt and the earlier tokens of its own:

    line       p p p p a a a b b q q c c c        a, b: responses to p;  c: the only one to q
    position   0 1 2 3 4 5 6 4 5 0 1 2 3 4
    stretch    0 0 0 0 1 1 1 2 2 3 3 3 3 3        sees the keys 0: p, 1: p a, 2: p b, 3: q c

The loss and its gradient are those of each sequence alone (tests/bimode/test_packing.py), from
fewer tokens: 2 g rollouts of one question pay for its prompt and its images once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bimode.learner.attention import Spans
from bimode.models.families import FAMILIES, TEXT, Family, positions
from bimode.records import TrainingSample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch. `T` tokens; `N` response tokens, in the order of the samples.

    `at_N` points into the line of [T] hidden states at the position that *predicts* each response
    token.
    """

    input_ids_T: Tensor
    position_ids_RT: Tensor  # R is 1, or 4 with M-RoPE (`bimode.models.families.positions`)
    spans: Spans
    vision_names: tuple[
        str, ...
    ]  # keyword names of the image processor's outputs, e.g. ("pixel_values",)
    vision: tuple[Tensor, ...]  # each joined over the images in order
    at_N: Tensor
    targets_N: Tensor
    sample_N: Tensor  # index of the sample each token belongs to
    first_N: Tensor  # True at the first response token of each sample
    loss_mask_N: Tensor
    advantages_N: Tensor
    behavior_logprobs_N: Tensor  # NaN: not known, the learner takes its own
    versions_N: Tensor  # policy version that drew each token

    def to(self, device: torch.device) -> PackedBatch:
        """Return the same batch on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if not f.name.startswith("vision")
        }
        return replace(self, vision=tuple(v.to(device) for v in self.vision), **moved)


def plan_micro_batches(lengths: Sequence[int], micro_tokens: int) -> list[list[int]]:
    """Plan micro-batches by first-fit decreasing: indices of trees, none over `micro_tokens` (a
    longer tree gets its own).
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for batch, free in enumerate(room):
            if lengths[i] <= free:
                batches[batch].append(i)
                room[batch] -= lengths[i]
                break
        else:
            batches.append([i])
            room.append(micro_tokens - lengths[i])
    return batches


def split_evenly(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split indices of trees into `parts` shares with about equal sums of `lengths` (longest first,
    to the lightest share).
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = loads.index(min(loads))
        shares[lightest].append(i)
        loads[lightest] += lengths[i]
    return [sorted(share) for share in shares]


def share_prompts(samples: Sequence[TrainingSample], micro_tokens: int) -> list[list[int]]:
    """Return the sample indices of each tree: equal prompts and images, in order of appearance, as
    many as fit into `micro_tokens`.
    """
    trees: list[list[int]] = []
    last: dict[
        object, tuple[list[int], int]
    ] = {}  # the newest tree of each prompt, and its room for responses
    for i, s in enumerate(samples):
        prompt, length = (s.prompt_ids, s.images), len(s.token_ids_T)
        tree, room = last.get(prompt, ([], micro_tokens - len(s.prompt_ids)))
        if tree and length > room:
            tree, room = [], micro_tokens - len(s.prompt_ids)
        if not tree:
            trees.append(tree)
        tree.append(i)
        last[prompt] = tree, room - length
    return trees


def tree_tokens(tree: Sequence[TrainingSample]) -> int:
    """Return the number of tokens of a tree: its prompt and all of its responses."""
    return len(tree[0].prompt_ids) + sum(len(s.token_ids_T) for s in tree)


def pack(
    trees: Sequence[Sequence[TrainingSample]],
    vision_of: Sequence[tuple[tuple[str, Tensor], ...]],
    family: Family = FAMILIES[TEXT],
    model: Any = None,
) -> PackedBatch:
    """Pack `trees`, with `vision_of[k]` the processed images of tree k's prompt. Samples are
    numbered tree by tree.

    `family` joins the images; `model`, the part below the head, knows whether a token has several
    positions.
    """
    samples = [s for tree in trees for s in tree]
    begins = accumulate(map(tree_tokens, trees), initial=0)
    layouts = [_lay_out(tree, begin) for tree, begin in zip(trees, begins, strict=False)]
    parts = [
        dict(vision) for vision in vision_of if vision
    ]  # a text sample beside images adds nothing
    names = tuple(parts[0]) if parts else ()
    places = [
        positions(model, tree[0].prompt_ids, dict(vision), [len(s.token_ids_T) for s in tree])
        for tree, vision in zip(trees, vision_of, strict=True)
    ]

    def tokens(field: str) -> Tensor:
        return torch.tensor([x for s in samples for x in getattr(s, field)], dtype=torch.float32)

    return PackedBatch(
        input_ids_T=torch.cat([laid.ids_T for laid in layouts]),
        position_ids_RT=torch.cat(places, 1),
        spans=Spans(
            queries=tuple(n for laid in layouts for n in laid.queries),
            keys=tuple(len(keys) for laid in layouts for keys in laid.keys),
            keys_K=torch.cat([keys for laid in layouts for keys in laid.keys]),
        ),
        vision_names=names,
        vision=tuple(family.join(name, [part[name] for part in parts]) for name in names),
        at_N=torch.cat([at_T for laid in layouts for at_T in laid.at]),
        targets_N=torch.tensor([t for s in samples for t in s.token_ids_T], dtype=torch.long),
        sample_N=torch.tensor(
            [i for i, s in enumerate(samples) for _ in s.token_ids_T], dtype=torch.long
        ),
        first_N=torch.tensor(
            [t == 0 for s in samples for t in range(len(s.token_ids_T))], dtype=torch.bool
        ),
        loss_mask_N=tokens("loss_mask_T"),
        advantages_N=tokens("advantages_T"),
        behavior_logprobs_N=tokens("behavior_logprobs_T"),
        versions_N=torch.tensor([v for s in samples for v in s.versions_T], dtype=torch.long),
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tree in the line: its tokens; lengths and keys of its stretches; where each response's
    tokens are predicted.
    """

    ids_T: Tensor
    queries: list[int]
    keys: list[Tensor]
    at: list[Tensor]


def _lay_out(tree: Sequence[TrainingSample], begin: int) -> _Layout:
    """Place `tree` from position `begin` of the line. A response that is alone is one stretch with
    its prompt.
    """
    prompt = len(tree[0].prompt_ids)
    lengths = [len(s.token_ids_T) for s in tree]
    starts = [begin + prompt + sum(lengths[:k]) for k in range(len(tree))]
    trunk = begin + torch.arange(prompt)
    branches = [start + torch.arange(n) for start, n in zip(starts, lengths, strict=True)]
    below = [torch.cat([trunk, branch]) for branch in branches]
    alone = len(tree) == 1
    return _Layout(
        ids_T=torch.tensor(
            [*tree[0].prompt_ids, *(t for s in tree for t in s.token_ids_T)], dtype=torch.long
        ),
        queries=[prompt + lengths[0]] if alone else [prompt, *lengths],
        keys=below if alone else [trunk, *below],
        at=[
            torch.cat([trunk[-1:], branch[:-1]]) for branch in branches
        ],  # the prompt's end predicts each response's first
    )
