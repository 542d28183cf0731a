"""Consistency Trajectory Models and their family: train, distil and sample them fast.

Importing this package imports neither torch nor anything else that is slow: each public name
below is resolved on first use.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "load": "checkpoints",
    "save": "checkpoints",
    "from_pretrained": "checkpoints",
    "save_pretrained": "checkpoints",
    "push_to_hub": "checkpoints",
    "Sampler": "sampler",
    "Trainer": "trainer",
    "Denoiser": "denoiser",
    "build": "models",
    "student_from": "models",
    "consistency_from": "models",
    "karras_sigmas": "sigmas",
    "SigmaRange": "sigmas",
    "partition": "sigmas",
    "freeze": "inference",
    "accelerate": "inference",
    "fast_dtype": "inference",
    "use_backend": "kernels",
    "BackendError": "kernels",
    "log_likelihood": "likelihood",
    "bits_per_dim": "likelihood",
    "elbo": "likelihood",
    "cite": "citations",
}
_PACKAGES = (
    *("losses", "solvers", "sampler", "kernels", "models"),
    *("data", "evaluation", "checkpoints", "trainer", "inference", "integrations", "wrappers"),
    "likelihood",
    "editing",
)

__all__ = ["__version__", *_NAMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"ctm_fast.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"ctm_fast.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ctm_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CheckoutKernels:
    """Finds `ctm_fast.kernels` in `../kernels` when the package is used from a checkout."""

    init = Path(__file__).resolve().parent.parent / "kernels" / "__init__.py"

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "ctm_fast.kernels":
            return None
        folder = str(cls.init.parent)
        return spec_from_file_location(name, cls.init, submodule_search_locations=[folder])


# An installed wheel holds its own `ctm_fast/kernels`; a stranger's `kernels` may lie beside it.
_installed = (Path(__file__).resolve().parent / "kernels").is_dir()
if not _installed and (_CheckoutKernels.init.parent / "op.py").is_file():
    sys.meta_path.append(_CheckoutKernels)
