"""GPUs as their data sheets and public measurements have them."""

from dataclasses import dataclass, field
from enum import Enum

from infra.errors import ConfigError


class GpuName(Enum):
    """The GPUs of the published runs."""

    h800 = "h800"
    h100 = "h100"
    b200 = "b200"
    b300 = "b300"
    gb200 = "gb200"
    gb300 = "gb300"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU and its share of the network."""

    memory_gib: float
    "What can be allocated."
    peak_tflops: float
    "BF16, dense, data sheet: what MFU is measured against, whatever the precision."
    matmul_tflops: float
    "Best BF16 matrix product that was measured."
    matmul_fp8_tflops: float
    "The same in FP8."
    hbm_gb_s: float
    "Memory bandwidth, data sheet."
    nvlink_gb_s: float
    "NVLink, one direction, data sheet."
    nvlink_domain: int
    "GPUs that reach each other over NVLink."
    nic_gb_s: float
    "Network per GPU, one direction."
    sms: int
    "Streaming multiprocessors."


# Matrix rates: Maximum Achievable Matmul FLOPS of github.com/stas00/ml-engineering (compute/accelerator/README.md,
# 2026-08), measured with torch on the shapes that suit each best; nothing of DeepSeek-V3 went into them. Exceptions:
# - H800: an H100 with half the NVLink; its matrix units are the same.
# - GB300: not in those tables. GB200's rates times 1.19, which is what NVIDIA's two LLAMA3_8B rows on 8 GPUs differ by
#   (FP8-CS, 1933 against 1622 TFLOPS, same layout; Megatron-Bridge performance summary 25.11).
# Memory: 81,559 MiB on the H100 (nvidia-smi); the data sheet's 10^9 bytes for the others, a little less than they have.
_GB = 1e9 / 2**30
_H100 = dict(
    memory_gib=79.6,
    peak_tflops=989.4,
    matmul_tflops=794.5,
    matmul_fp8_tflops=1402.6,
    hbm_gb_s=3350.0,
    nvlink_gb_s=450.0,
    nvlink_domain=8,
    nic_gb_s=50.0,
    sms=132,
)
_BLACKWELL = dict(hbm_gb_s=8000.0, nvlink_gb_s=900.0)
_HGX = _BLACKWELL | dict(peak_tflops=2250.0, nvlink_domain=8, sms=148)
_NVL72 = _BLACKWELL | dict(peak_tflops=2500.0, nvlink_domain=72, sms=152)
GPUS: dict[GpuName, Gpu] = {
    GpuName.h800: Gpu(**_H100 | dict(nvlink_gb_s=200.0)),
    GpuName.h100: Gpu(**_H100),
    GpuName.b200: Gpu(**_HGX, memory_gib=180 * _GB, matmul_tflops=1745.0, matmul_fp8_tflops=3432.5, nic_gb_s=50.0),
    GpuName.b300: Gpu(**_HGX, memory_gib=288 * _GB, matmul_tflops=1769.0, matmul_fp8_tflops=3353.3, nic_gb_s=100.0),
    GpuName.gb200: Gpu(**_NVL72, memory_gib=186 * _GB, matmul_tflops=1822.0, matmul_fp8_tflops=3615.6, nic_gb_s=50.0),
    GpuName.gb300: Gpu(
        **_NVL72, memory_gib=288 * _GB, matmul_tflops=1822.0 * 1.19, matmul_fp8_tflops=3615.6 * 1.19, nic_gb_s=100.0
    ),
}


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """The machine that a run is planned for or submitted to."""

    gpu: GpuName = GpuName.h800
    """h800, h100, b200, b300, gb200 or gb300."""
    gpus: int = 2048
    """How many of them."""
    dollars_per_gpu_hour: float = 2.0
    """Price of one for an hour; 2 is what V3 table 1 assumes for the H800."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of the processes, as the published runs on such machines set them."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError("cluster.gpus", self.gpus, "nothing would run", "set at least 1")
        if self.dollars_per_gpu_hour < 0:
            raise ConfigError("cluster.dollars_per_gpu_hour", self.dollars_per_gpu_hour, "is no price", "set 0 or more")
        for name, value in self.env.items():
            if not isinstance(value, str):
                raise ConfigError(
                    f"cluster.env.{name}", value, "environment variables are text", f"quote it: '{value}'"
                )

    @property
    def spec(self) -> Gpu:
        """The GPU's figures."""
        return GPUS[self.gpu]
