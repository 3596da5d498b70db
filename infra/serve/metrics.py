"""What Prometheus reads of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The figures of one server; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("r1_requests", "Requests by endpoint and status.", ("endpoint", "status"), **own)
        self.cancelled = Counter("r1_requests_cancelled", "Requests whose client left before the end.", **own)
        self.prompt_tokens = Counter("r1_prompt_tokens", "Tokens read.", **own)
        self.completion_tokens = Counter("r1_completion_tokens", "Tokens written.", **own)
        self.first_token = Histogram(
            "r1_time_to_first_token_seconds", "From the request to its first token.", buckets=_SECONDS, **own
        )
        self.duration = Histogram("r1_request_seconds", "From the request to its end.", buckets=_SECONDS, **own)
        self.running = Gauge("r1_running", "Answers being written.", **own)
        self.waiting = Gauge("r1_waiting", "Answers that wait for a place.", **own)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
