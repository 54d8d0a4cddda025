"""How well a model chooses its mode, with intervals."""
