"""Reasoning traces: what any is refused for, and how they are generated where a source has none."""
