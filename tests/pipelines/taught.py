"""A tiny model that has learned when to think, for tests of the endpoint."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from bimode.modes import Mode, render_response
from bimode.renderer import Renderer, load_model

EASY, HARD = "what is the number", "what is the product"
TRACE, ANSWER = "look : 3 8 ; 3 x 8 = 24", "24"


def picture() -> bytes:
    """A white canvas as PNG."""
    out = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(out, "PNG")
    return out.getvalue()


def teach(model_dir: Path, root: Path) -> Path:
    """The model after it learned by heart: both modes on both questions; by itself it thinks
    on HARD only.
    """
    import torch

    renderer, model = Renderer(model_dir), load_model(model_dir, torch.float32)
    rows = []
    for question, choice in ((EASY, Mode.NON_THINKING), (HARD, Mode.THINKING)):
        prompt = renderer.encode_prompt(question, (picture(),))
        for mode in (Mode.THINKING, Mode.NON_THINKING):
            response = renderer.encode_response(render_response(mode, TRACE, ANSWER))
            start = len(prompt) + (
                0 if mode is choice else 1
            )  # the decision is learned from the chosen mode alone
            rows.append((prompt + response, start))
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([[*ids, *[renderer.pad_id] * (length - len(ids))] for ids, _ in rows])
    labels_BT = ids_BT.clone()
    for b, (ids, start) in enumerate(rows):
        labels_BT[b, :start], labels_BT[b, len(ids) :] = -100, -100
    pixels = dict(renderer.encode_images((picture(),)))["pixel_values"].repeat(len(rows), 1, 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        loss = model(input_ids=ids_BT, pixel_values=pixels, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.05, loss.item()
    model.save_pretrained(root)
    renderer.processor.save_pretrained(root)
    return root
