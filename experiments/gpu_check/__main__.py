"""`python -m experiments.gpu_check [device=cuda] [size=1b] [name=...]`: all checks, a JSON, the figures in short."""

import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from experiments.gpu_check.settings import SIZES, Settings, precisions
from infra.errors import R1Error

ROOT = Path(__file__).resolve().parents[2]


def run(settings: Settings) -> dict[str, Any]:
    """Every section in turn; the JSON is written after each, and one that fails does not take the others with it."""
    from experiments.gpu_check import products, rollouts, train
    from experiments.summary import write_json
    from infra.hardware import fp8_lacks, machine, version
    from infra.progress import say
    from infra.tracking import git_state
    from training import parallel
    from training.config import ParallelConfig

    sections = {
        "products": products.run,
        "pretrain": train.run,
        "decode": rollouts.decode,
        "grpo": rollouts.grpo,
    }
    usual = ROOT / "experiments" / "results" / "gpu" if settings.device == "cuda" else Path("runs/gpu_check")
    path = Path(settings.out or usual) / f"{settings.file_name}.json"
    size = SIZES[settings.size]
    result: dict[str, Any] = {
        "name": settings.file_name,
        "device": settings.gpu,
        "stands_for": "this GPU" if settings.device == "cuda" else "the code path alone: its figures say nothing",
        "command": " ".join(["make gpu-check", f'ARGS="device={settings.device} size={settings.size}"']),
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "triton", "megatron-core", "transformer-engine")},
        "bf16_peak_tflops": settings.peak and settings.peak / 1e12,
        "parameters": size.model.num_params(mtp=True),
        "active_parameters": size.model.active_params(mtp=True),
        "precisions": [precision.name for precision in precisions(settings)],
        "not_here": {name: lack for name, lack in fp8_lacks().items() if lack},
        "failed": {},
        **git_state(),
    }
    parallel.init(ParallelConfig(), 0)
    for name, section in sections.items():
        say(f"{name} ...")
        start = time.perf_counter()
        try:
            result[name] = section(settings)
            problem = result[name].pop("problem", None)
        except Exception as error:  # whatever it is: machine time is dear, and the next section may work
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
        if problem:
            result["failed"][name] = problem
            say(f"{name} failed: {problem}")
        result.setdefault("seconds", {})[name] = time.perf_counter() - start
        write_json(path, result)
    say(in_short(result))
    say(f"written to {path}")
    return result


def in_short(result: dict[str, Any]) -> str:
    """The figures for the terminal, a line each."""
    lines = [f"{result['device']} ({result['stands_for']})"]
    for name, found in result.get("pretrain", {}).items():
        if "tokens_per_s" not in found:
            continue
        mfu = f", MFU {100 * found['mfu_bf16_peak']:.1f} %" if found["mfu_bf16_peak"] else ""
        ratio = f", {found['speed_ratio']:.2f} times its BF16" if "speed_ratio" in found else ""
        loss = f", loss {100 * found['loss_difference'][-1]:+.3f} %" if "loss_difference" in found else ""
        lines.append(f"  train {name}: {found['tokens_per_s']:,.0f} tokens/s{mfu}{ratio}{loss}")
    for name, found in result.get("decode", {}).items():
        if name.startswith("batch_"):
            lines.append(f"  decode {name}: {found['tokens_per_s']:,.0f} tokens/s")
    for name, found in result.get("grpo", {}).items():
        phases = ", ".join(f"{key[5:-2]} {value:.2f} s" for key, value in found.items() if key.startswith("time/"))
        lines.append(f"  grpo {name}: {phases}, sampler-trainer difference {found['rl/sampler_trainer_diff']:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        failed = run(Settings.parse(sys.argv[1:]))["failed"]
    except R1Error as error:
        sys.exit(f"gpu-check: {error}")
    sys.exit(f"gpu-check: failed: {', '.join(failed)}" if failed else 0)
