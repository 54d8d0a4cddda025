"""Free texts that are the same but for small edits: MinHash finds candidates, exact Jaccard
similarity decides.

Wrong for templated questions, where opposites share most shingles; so it applies only to longer
texts that have the same answer, the same numbers and the same picture or none (`decide`).
"""

from __future__ import annotations

from data_curation.dedup.ngrams import runs, words

SHINGLE = 3  # words
NUM_PERM = 128
MISSED = 1e-3  # chance of a pair exactly at the threshold not to be a candidate, at most
SLACK = 0.15  # an estimate this far below the threshold is out: its standard error is 0.044 at most


def shingles(text: str) -> set[int]:
    """Digests of every 3 words in a row; of the whole text if there are fewer."""
    return runs(text, min(SHINGLE, max(1, len(words(text)))))


def jaccard(one: set[int], two: set[int]) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    return len(one & two) / len(one | two) if one | two else 1.0


def num_bands(similarity: float) -> int:
    """Bands of NUM_PERM hashes at which a pair of `similarity` is missed with a chance of MISSED at
    most (of 1, 2, 4 .. rows).

    A pair is a candidate where all rows of some band agree: ``1 - (1 - s^rows)^bands`` (Leskovec et
    al., "Mining of Massive Datasets", section 3.4.2).
    """
    best = NUM_PERM
    for rows in (1, 2, 4, 8, 16, 32, 64, 128):
        bands = NUM_PERM // rows
        if (1 - similarity**rows) ** bands <= MISSED:
            best = bands
    return best


class KeptTexts:
    """The texts kept so far of one group, in order of priority. About 1 kB a text beside the
    text.
    """

    def __init__(self, similarity: float) -> None:
        from rensa import RMinHashLSH

        self._similarity = similarity
        self._lsh = RMinHashLSH(similarity, NUM_PERM, num_bands(similarity))
        self._texts: list[tuple[str, object]] = []

    def find_or_add(self, text: str, always: bool = False) -> int:
        """Index of the first kept text that `text` repeats, or -1, and then it is kept itself;
        `always`: it is kept anyway.
        """
        from rensa import RMinHash

        own, sketch = shingles(text), RMinHash(NUM_PERM, 0)
        sketch.update([str(shingle) for shingle in own])
        first = -1 if always else self._first(own, sketch)
        if first < 0:
            self._lsh.insert(len(self._texts), sketch)
            self._texts.append((text, sketch))
        return first

    def _first(self, own: set[int], sketch: object) -> int:
        for at in sorted(self._lsh.query(sketch)):
            text, other = self._texts[at]
            if sketch.jaccard(other) < self._similarity - SLACK:  # type: ignore[attr-defined]
                continue
            if jaccard(own, shingles(text)) >= self._similarity:
                return int(at)
        return -1
