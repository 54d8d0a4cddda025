"""Order: one module a stage, and the harness that skips, connects, executes and seals. Nobody
imports this package.
"""
