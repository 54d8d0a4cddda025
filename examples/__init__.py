"""Own algorithm, reward, verifier, generator, layout and metrics sink, each named by a recipe
(docs/extending.md).
"""
