"""Reasoning traces: why they are rejected, and how missing ones are generated."""
