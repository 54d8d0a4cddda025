"""What rows are compared by: canonical texts, and two small pictures of each picture. Computed once
a row, while it is decoded.

A picture keeps its perceptual hash and its thumbnail through another file format, another size,
more light. The hash finds candidates; the thumbnail tells whether two of them differ by more than
an encoder does (`near_images`), so that no later step has to decode a picture again, and an index
of an earlier run needs no pictures.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bimode.inputs.pictures import in_rgb, open_picture
from bimode.storage.run_dir import digest_json

HASH_SIZE = 16  # ImageHash's: a hash has its square in bits
HASH_HEX = HASH_SIZE * HASH_SIZE // 4
THUMB_SIDE = 20
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE
Picture = Image.Image | bytes
UNSEEN = re.compile(
    "[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]"
)  # directions, joiners, variants


def canonical(text: str) -> str:
    """`text` in NFKC, case folded, white space collapsed, without invisible characters."""
    return " ".join(UNSEEN.sub("", unicodedata.normalize("NFKC", text).casefold()).split())


def content_key(question: str, image_sha256: str) -> str:
    """Digest of the canonical question and the pixels (`bimode.storage.dataset.image_digest`)."""
    return digest_json([canonical(question), image_sha256])


def question_key(question: str) -> str:
    """Digest of the canonical question alone."""
    return digest_json(canonical(question))


def answer_key(answer: str) -> str:
    """The canonical answer without the stop that ends a sentence: ``" The  Cat. "`` is ``"the
    cat"``.
    """
    return canonical(answer).rstrip(".!? ")


def perceptual_hash(images: Sequence[Picture]) -> str:
    """pHash of each image, 64 hex digits for 256 bits, joined by ``-``; "" for none.

    The 16 x 16 lowest frequencies of a cosine transform, each above or below their median (Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1;
    ImageHash's code). Raises PictureError for bytes that are no picture.
    """
    import imagehash

    hashes = (imagehash.phash(_gray(image), hash_size=HASH_SIZE).hash for image in images)
    # as ImageHash's own `str`, in a hundredth of its time
    return "-".join(np.packbits(bits).tobytes().hex() for bits in hashes)


def thumbnails(images: Sequence[Picture]) -> bytes:
    """Each image as 20 x 20 gray values, THUMB_BYTES an image, one after another; b"" for none.

    Raises PictureError as above.
    """
    size = (THUMB_SIDE, THUMB_SIDE)
    return b"".join(
        _gray(image).resize(size, Image.Resampling.BILINEAR).tobytes() for image in images
    )


def _gray(image: Picture) -> Image.Image:
    """`image` in 8 bits of gray, made of the pixels that a model sees.

    A picture in RGB counts as one that `open_picture` has opened.
    """
    if isinstance(image, bytes):
        return open_picture(image).convert("L")
    return (image if image.mode == "RGB" else in_rgb(image)).convert("L")
