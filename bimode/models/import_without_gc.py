"""Imports of libraries that make a million objects, in two thirds of the time."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any


def import_without_gc(name: str) -> Any:
    """The module called `name`. While it is imported the garbage collector rests: it would look
    again and again through all that has been made, and stays. What there is at the end it leaves
    alone for good.
    """
    if name in sys.modules:
        return sys.modules[name]
    was_on = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def import_transformers() -> Any:
    """transformers with its model classes, and without scikit-learn: that takes a second, for
    assisted generation alone.
    """
    from transformers import utils

    utils.is_sklearn_available = lambda: False
    import_without_gc("transformers.models.auto.modeling_auto")
    return sys.modules["transformers"]
