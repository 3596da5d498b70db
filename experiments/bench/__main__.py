"""`python -m experiments.bench [name ...]`: run benchmarks, print both figures and their ratio, write runs/bench/."""

import sys
from collections.abc import Callable
from pathlib import Path

from experiments.bench import (
    decode,
    growth,
    grpo_step,
    logging,
    partial,
    reward_checks,
    sandbox,
    serve,
    speculative,
    train,
)
from experiments.bench.result import Result
from infra.errors import ConfigError, R1Error
from infra.progress import say

BENCHMARKS: dict[str, Callable[[], Result]] = {
    "train_tokens": train.run,
    "decode_tokens": decode.run,
    "logging_overhead": logging.run,
    "speculative": speculative.run,
    "reward_checks": reward_checks.run,
    "sandbox_runs": sandbox.run,
    "partial_rollouts": partial.run,
    "serve": serve.run,
    "serve_peer": serve.run_peer,
    "grpo_step": grpo_step.run,
    "growth_tokens": growth.tokens,
    "growth_experts": growth.experts,
    "growth_group": growth.group,
    "growth_response": growth.response,
}
FOLDER = Path("runs/bench")


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ConfigError("bench", unknown[0], "is no benchmark", f"choose from {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        say(f"{name} ...")
        result = BENCHMARKS[name]()
        result.write(FOLDER / f"{name}.json")
        print(result, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except R1Error as error:
        sys.exit(f"bench: {error}")
