"""What an answer earns (R1 §2.2.2): rules only."""
