"""Code that a model wrote is run here and nowhere else: in a sandbox of the kernel's making, or not at all."""
