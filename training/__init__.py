"""Turning tokens into weights: parallel state, optimiser, the training step, the loop and its checkpoints."""
