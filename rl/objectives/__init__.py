"""Policy objectives: pure functions of a micro-batch and the policy's logprobs, one file each."""
