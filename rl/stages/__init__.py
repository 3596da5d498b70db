"""The stages of R1 (R1 §2.2-2.3): each takes a checkpoint and gives a checkpoint."""
