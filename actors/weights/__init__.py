"""Weights from the learner to the rollout workers."""
