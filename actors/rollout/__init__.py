"""Generation: the rollout loop, the fleet of workers, and the engine inside each."""
