"""The scratch that layers load into: one piece of memory for all, unless a layer keeps it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.ray  # it loads vLLM, whose reload it is for


def cut(scratch: Any, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """What a layer with such parameters is given, filled with ones."""
    with scratch:
        tensors = [
            torch.empty_strided(
                size=s, stride=torch.empty(s, device="meta").stride(), dtype=torch.float32
            )
            for s in shapes
        ]
    return [tensor.fill_(1.0) for tensor in tensors]


def test_layers_load_into_the_same_memory_and_parameters_of_one_do_not_overlap() -> None:
    from actors.cpu_memory import Scratch

    scratch = Scratch(1024)
    first, second = cut(scratch, (3, 5), (7,))
    assert (
        first.shape == (3, 5)
        and second.data_ptr() - first.data_ptr() == 64
        and first.data_ptr() % 64 == 0
    )
    second.fill_(2.0)
    assert first.eq(1.0).all()
    where = first.data_ptr()
    del first, second
    assert cut(scratch, (3, 5))[0].data_ptr() == where


def test_a_layer_that_keeps_what_it_loaded_into_has_it_for_itself() -> None:
    from actors.cpu_memory import Scratch

    scratch = Scratch(1024)
    kept = cut(scratch, (3, 5))[0].detach()[1:]
    (other,) = cut(scratch, (3, 5))
    other.fill_(2.0)
    assert kept.eq(1.0).all()
