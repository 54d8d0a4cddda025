"""The learner: its ranks, the engines that move it, and the annealer under Ray Train."""
