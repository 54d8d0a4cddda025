"""What a learner computes: packing, attention, the policy, the learning rate, data strategies."""
