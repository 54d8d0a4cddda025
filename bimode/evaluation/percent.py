"""Shares as everybody is told them: with a blank before the sign, in whole percent where nothing
else is asked for.
"""

from __future__ import annotations


def percent(share: float, decimals: int = 0) -> str:
    """``percent(0.125, 1)`` is ``12.5 %``."""
    return f"{100 * share:.{decimals}f} %"
