"""Reinforcement learning: scheduler, ledger and audit, credit, loss, and what a step reports."""
