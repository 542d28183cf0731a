"""A user's own clone of another code base: recognised by its files, imported into this process.

Nothing of it is copied, changed or downloaded. Optional libraries that it imports at the top of its
files and that are not installed are replaced by placeholders, which fail when they are called.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OWN = (
    "cm",
    "dnnlib",
    "training",
    "torch_utils",
    "torch_utils_cm",
    "pg_modules",
    "feature_networks",
)
"""Top-level modules that clones bring along, several of them under the same names."""

OPTIONAL = (
    *("flash_attn", "xformers", "mpi4py", "piq", "blobfile", "torchvision", "lpips", "timm"),
    *("cv2", "skimage", "nvidia_smi", "requests", "psutil", "click", "kornia", "scipy"),
)
"""Libraries of which the networks need nothing, or only a faster way."""


@dataclass(frozen=True)
class Kind:
    """One code base, and the files that tell it."""

    name: str
    files: tuple[str, ...]  # that its root has
    root: str = "."  # where its packages lie, below the folder that is given


KINDS = (
    Kind("sony-ctm", ("code/cm/networks.py", "code/cm/unet.py"), "code"),
    Kind("ctm-cifar10", ("cm/networks.py", "cm/unet.py")),
    Kind("openai-cm", ("cm/unet.py", "cm/karras_diffusion.py")),
    Kind("edm", ("training/networks.py", "torch_utils/persistence.py", "train.py")),
)
"""In the order in which they are tried."""


@dataclass
class Clone:
    """A folder of a code base."""

    name: str
    root: Path  # put in front of sys.path while something of it is imported
    modules: dict[str, types.ModuleType] = field(default_factory=dict)  # loaded so far

    def load(self, module: str) -> Any:
        """One of its modules; its own dependencies come from the same folder.

        Raises:
            ImportError: it, or something that it needs, cannot be imported.
        """
        with self.active():
            return importlib.import_module(module)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context in which its names mean its modules, whatever other clones have loaded."""
        kept = {name: m for name, m in sys.modules.items() if _own(name)}
        for name in kept:
            del sys.modules[name]
        sys.modules.update(self.modules)
        path, finder = list(sys.path), _Placeholders()
        sys.path.insert(0, str(self.root))
        sys.meta_path.append(finder)
        try:
            yield
        finally:
            sys.path[:] = path
            sys.meta_path.remove(finder)
            self.modules = {name: m for name, m in sys.modules.items() if _own(name)}
            for name in self.modules:
                del sys.modules[name]
            sys.modules.update(kept)


def recognise(path: Path) -> Clone:
    """The clone in a folder.

    Raises:
        ValueError: it is no folder, or has not the files of a code base that is known here.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(f"--peer {path} is not a folder")
    for kind in KINDS:
        if all((path / file).is_file() for file in kind.files):
            return Clone(kind.name, path / kind.root)
    known = "; ".join(f"{kind.name}: {', '.join(kind.files)}" for kind in KINDS)
    raise ValueError(f"--peer {path} has the files of no code base known here ({known})")


def missing(*libraries: str) -> list[str]:
    """Those of the libraries that are not installed."""
    return [name for name in libraries if importlib.util.find_spec(name) is None]


def _own(name: str) -> bool:
    return name.split(".")[0] in OWN or getattr(sys.modules.get(name), _MARK, False)


_MARK = "__ctm_fast_placeholder__"


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last resort of an import: an empty module for what is optional and not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in OPTIONAL:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


class _Placeholder(types.ModuleType):
    """A module whose every attribute can be imported and constructed, but not called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        setattr(self, _MARK, True)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"

        class Absent:
            """Stands for something that is not installed."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                """Takes anything."""

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                raise ImportError(f"{full} is not installed")

        return Absent
