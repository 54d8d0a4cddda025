"""Processes: rollout workers, learners and their graph. Plain classes, made remote in one place
(`actors.rl_workers`).
"""
