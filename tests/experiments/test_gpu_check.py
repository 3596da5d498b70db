"""The GPU's check, as far as a CPU can run it: settings, wheels, the whole path at a tiny size, what it writes."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.gpu_check import settings as module
from experiments.gpu_check.__main__ import in_short
from experiments.gpu_check.settings import SIZES, Settings, precisions
from infra.errors import ConfigError
from modeling.config import Fp8, Modules

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "scripts" / "gpu_check.py"
# What a machine with little installed need not have, though our environment does.
ABSENT = "hydra omegaconf mlflow pandas pyarrow matplotlib streamlit altair reasoning_gym transformers".split()

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which Megatron would take")


def _script():
    spec = importlib.util.spec_from_file_location("gpu_check_script", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_billion_is_one_and_its_widths_are_whole_tiles():
    cfg = SIZES["1b"].model
    assert 0.9e9 < cfg.num_params(mtp=True) < 1.4e9
    widths = [cfg.hidden_size, cfg.q_lora_rank, cfg.intermediate_size, cfg.moe_intermediate_size, cfg.vocab_size]
    assert not any(width % 128 for width in widths)


@no_gpu
def test_without_a_gpu_one_line_says_so():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("gpu-check: device=cuda: torch ") and "sees no GPU here" in done.stderr
    assert done.stderr.count("\n") == 1 and "device=cpu size=tiny" in done.stderr


@pytest.mark.parametrize("given", ["size=huge", "device=tpu", "colour=red", "size"])
def test_settings_that_cannot_be_are_refused(given: str):
    with pytest.raises(ConfigError, match=given.partition("=")[0]):
        Settings.parse([given])


@no_gpu
def test_a_cpu_does_not_try_the_billion():
    with pytest.raises(ConfigError, match="size=1b"):
        Settings(device="cpu")


def _on_gpu(monkeypatch, name: str, **lacks: str) -> Settings:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(module, "fp8_lacks", lambda: {"te": "", "torch": "", "emulated": ""} | lacks)
    return Settings()


def test_on_hopper_all_carriers_are_compared_each_with_a_bf16_of_the_same_modules(monkeypatch):
    found = {p.name: p for p in precisions(_on_gpu(monkeypatch, "NVIDIA H100 80GB HBM3"))}
    assert list(found) == ["bf16", "torch", "emulated", "te_bf16", "te"]
    for name, fp8 in (("torch", Fp8.torch), ("emulated", Fp8.emulated), ("te", Fp8.te)):
        own, base = found[name], found[found[name].against]
        assert own.model.fp8 is fp8 and base.model.fp8 is Fp8.none
        assert own.model.modules is base.model.modules is (Modules.te if name == "te" else Modules.local)
    assert not found["emulated"].timed


def test_without_the_engine_and_hopper_bf16_is_measured_all_the_same(monkeypatch):
    settings = _on_gpu(monkeypatch, "NVIDIA A100-SXM4-80GB", te="an engine", torch="Hopper")
    assert [p.name for p in precisions(settings)] == ["bf16", "emulated"]
    assert settings.peak == 312e12 and settings.file_name == "nvidia-a100-sxm4-80gb"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H20", 148e12),
        ("Some GPU", None),
    ],
)
def test_peaks(monkeypatch, name: str, peak: float | None):
    assert _on_gpu(monkeypatch, name).peak == peak


@no_gpu
def test_the_whole_path_on_a_cpu_with_little_installed(tmp_path):
    hide = f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT}))\n"
    code = (
        hide + f"sys.argv[1:] = ['device=cpu', 'size=tiny', 'out={tmp_path}']; sys.path.insert(0, '{SCRIPT.parent}')\n"
    )
    code += f"runpy.run_path('{SCRIPT}', run_name='__main__')"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "cpu.json").read_text())
    assert result["device"] == "cpu" and "says nothing" not in result["device"]
    assert result["stands_for"].startswith("the code path alone") and result["failed"] == {}
    assert result["precisions"] == ["bf16", "emulated"] and "sm90" in result["not_here"]["torch"]
    (product,) = (value for key, value in result["products"].items() if key != "quantiser")
    assert all(0.005 < error < 0.1 for error in product["emulated"]["relative_error_to_fp32"].values())
    trained = result["pretrain"]["emulated"]
    assert trained["losses"][-1] < trained["losses"][0] and len(trained["losses"]) == 4
    assert 0 < max(map(abs, trained["loss_difference"])) < 0.05
    assert trained["mfu_bf16_peak"] is None and trained["tflops"] > 0
    assert result["grpo"]["emulated"]["answers"] == 8 and result["grpo"]["bf16"]["time/rollout_s"] > 0
    assert result["grpo"]["bf16"]["rl/sampler_trainer_diff"] < result["grpo"]["emulated"]["rl/sampler_trainer_diff"]
    assert result["decode"]["batch_4"]["tokens_per_s"] > 0
    short = in_short(result)
    assert short.splitlines()[0].startswith("cpu (the code path alone") and "train emulated" in short


def test_what_is_not_installed_is_taken_from_wheels_beside_it(tmp_path, monkeypatch, capsys):
    script = _script()
    with zipfile.ZipFile(tmp_path / "lonely_module-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lonely_module/__init__.py", "answer = 42\n")
    monkeypatch.setattr(script, "NEEDED", ("torch", "lonely_module"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [])
    seen = {}

    def run(name: str, run_name: str) -> None:
        import lonely_module

        seen.update(name=name, answer=lonely_module.answer, argv=list(sys.argv))

    monkeypatch.setattr(script.runpy, "run_module", run)
    script.main([f"wheels={tmp_path}", "size=tiny"])
    assert seen == {"name": "experiments.gpu_check", "answer": 42, "argv": ["gpu_check", "size=tiny"]}
    sys.modules.pop("lonely_module")


def test_what_is_neither_installed_nor_beside_it_is_named(tmp_path, monkeypatch):
    script = _script()
    monkeypatch.setattr(script, "NEEDED", ("torch", "lonely_module", "megatron.cores"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match="lonely_module, megatron.cores not installed.*wheels"):
        script.main([f"wheels={tmp_path}"])
