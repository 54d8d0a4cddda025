"""Whether a completion is right, and what it earns."""
