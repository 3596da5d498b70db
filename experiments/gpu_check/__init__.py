"""One GPU, one command, one JSON: what the CPU cannot prove about CUDA and FP8 (`make gpu-check`)."""
