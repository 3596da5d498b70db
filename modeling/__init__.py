"""The network (DeepSeek-V3 sections 2 and 3): config, build, attention, router, MTP, names on disk, decoding."""
