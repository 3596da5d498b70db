"""Rollout engines: questions in, answers with the sampler's logprobs out."""
