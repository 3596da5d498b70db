"""Reinforcement learning on answers that rules can judge (R1 §2; DSM §4; K §2)."""
