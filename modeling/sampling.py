"""How answers are drawn: settings and the record of one sampled answer. Loads without torch."""

from dataclasses import dataclass

from infra.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """What the sampler does to the model's distribution. Raises ConfigError on values that cannot work."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens that holds this much probability; 1 draws from all."""
    max_response_tokens: int = 256
    """Longest response in tokens."""
    speculative: bool = False
    """Let the MTP module propose every next token and the model check it: the same distribution, one or two tokens a
    step. Pays where reading the weights takes a step's time: few answers at a time on a GPU, not on CPU cores."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError("sampling.temperature", self.temperature, "has to be 0 or more", "set 1.0")
        if not 0 < self.top_p <= 1:
            raise ConfigError("sampling.top_p", self.top_p, "is a share of probability", "set it above 0, up to 1")
        if self.max_response_tokens < 1:
            raise ConfigError("sampling.max_response_tokens", self.max_response_tokens, "leaves no room", "set 256")


@dataclass(slots=True)
class Sampled:
    """One answer.

    Example: Sampled([4, 90, 2], [-0.1, -2.0, 0.0], [0.3, 1.9, 0.0], stopped=True) where 2 is a stop id.
    """

    tokens: list[int]
    "The response, its stop token included, [response]."
    logprobs: list[float]
    "Log-probability of each token under the distribution it was drawn from, [response]."
    entropies: list[float]
    "Entropy of that distribution at each token, nats, [response]."
    stopped: bool
    "Whether it ends with a stop token; False where a limit cut it."
