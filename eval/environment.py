"""What the numbers were measured with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device, dtype: str) -> dict[str, Any]:
    """Versions, processor, threads, device and dtype."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "lm_eval": version("lm_eval"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": dtype
        if dtype != "auto"
        else ("float32" if device.type == "cpu" else "each checkpoint's own"),
    }


def _cpu_name() -> str:
    """The processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
