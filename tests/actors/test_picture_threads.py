"""Pictures of a server: large ones do not keep small ones waiting."""

from __future__ import annotations

import asyncio
import base64

import pytest
from PIL import Image

from actors.serving.refusals import LARGE, ImageReader
from bimode.inputs.pictures import MAX_SCANS
from tests.pictures import encoded

pytestmark = (
    pytest.mark.ray
)  # of which it needs no more than the imports: with vLLM they take ten seconds


def data_url(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def slow_jpeg(side: int) -> str:
    """As many scans as are accepted, each over all pixels."""
    plain = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return data_url(plain[:-2] + last * (MAX_SCANS - plain.count(b"\xff\xda")) + plain[-2:])


def order_of(urls: list[str]) -> list[int]:
    """The widths of the pictures at `urls`, in the order in which they are there."""
    done: list[int] = []

    async def fetch(url: str) -> None:
        image = await ImageReader().fetch_image_async(url)
        done.append(image.media.width)  # type: ignore[attr-defined]

    async def fetch_all() -> None:
        tasks = []
        for url in urls:
            tasks.append(asyncio.create_task(fetch(url)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)

    asyncio.run(fetch_all())
    return done


def test_a_small_picture_does_not_wait_for_large_ones() -> None:
    """Eight that take a second each held every thread that decodes: a small one came last."""
    small = data_url(encoded(Image.new("L", (16, 16)), "JPEG"))
    order = order_of([slow_jpeg(2048)] * 8 + [small])
    assert sorted(order) == [16] + [2048] * 8 and 16 in order[:3]


def test_small_pictures_of_many_scans_are_among_the_small() -> None:
    """At the edge of what counts as large: a few of them take what one picture may take."""
    side = int(LARGE**0.5)
    order = order_of([slow_jpeg(side + 1)] * 16 + [slow_jpeg(side)])
    assert order.index(side) < 10
