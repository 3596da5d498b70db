"""The mismatch laboratory: one known fault at a time between the sampler and the trainer, and what shows it."""
