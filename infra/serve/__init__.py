"""`r1 serve`: an OpenAI-compatible server on our engine, in front of vLLM, or in front of any compatible server."""
