"""Doors for other codebases: their sampling functions, with ours behind them.

edm            NVlabs/edm `sampler_fn`, NVlabs/edm2 `generate_images(sampler_fn=...)`
ect            locuslab/ect `generator_fn`
k_diffusion    crowsonkb/k-diffusion `sample_*`
karras         openai/consistency_models and sony/ctm `karras_sample`
flow_matching  facebookresearch/flow_matching `solver.sample`
fastgen        NVlabs/FastGen `network.sample`
diffusers      Hugging Face diffusers scheduler and pipeline

Each is imported on first use; only `diffusers` needs another package.
"""

import importlib
from typing import Any

_DOORS = ("edm", "ect", "k_diffusion", "karras", "flow_matching", "fastgen", "diffusers")

__all__ = list(_DOORS)


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
