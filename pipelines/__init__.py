"""Run the stages in order: one module a stage, and a harness that skips, connects, executes and
seals. No other package imports this one.
"""

from importlib import import_module


def main(command: str) -> None:
    """Run `bimode COMMAND` and exit; `python -m pipelines.COMMAND` calls this.

    The command line is imported by name, since it imports the stages and they must not import it.
    """
    import_module("pipelines.__main__").main(command)
