"""Prompt models about rows, each thing once: jobs, and the cache of their replies."""
