"""`r1 launch`: stages as jobs, on this machine or on SLURM through NeMo-Run; their status, logs and end."""
