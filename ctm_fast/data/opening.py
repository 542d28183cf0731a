"""One door to every data set: a name, a folder, a file, or an object that is one already."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctm_fast.registry import Registry

from .cifar import CIFAR, is_cifar
from .dataset import Flipped, ImageDataset
from .edm_zip import EDMZip
from .image_folder import ImageFolder
from .npz import Npz
from .parquet import Parquet, is_parquet

DATASETS = Registry(
    "dataset",
    {
        "digits": "ctm_fast.data.digits:Digits",
        "photo-patches": "ctm_fast.data.photo_patches:PhotoPatches",
    },
)
_TYPES: dict[str, type] = {
    **dict.fromkeys(("size", "stride"), numbers.Integral),
    **dict.fromkeys(("split", "resize", "layout", "image", "label"), str),
}
FILES: dict[str, Callable[..., ImageDataset]] = {  # by the end of the name
    ".zip": EDMZip,
    ".npz": Npz,
    ".parquet": Parquet,
    ".tar.gz": CIFAR,
    ".tgz": CIFAR,
}


def open(
    source: str | Path | ImageDataset, /, *, flip: bool = False, **options: Any
) -> ImageDataset:
    """The data set that `source` names.

    Args:
        source: "digits", "photo-patches", an ImageDataset, or a path: a folder with images, with
            CIFAR batches or with parquet files; a .zip in EDM's format, a .npz, a .parquet, or
            CIFAR's .tar.gz. A string that is a registered name is never taken as a path.
        flip: also give the mirror image of every image; an error for digits.
        options: what the data set itself takes, for example `size=32` for folders and archives, or
            `split="test"`.

    Raises:
        ValueError: for an unknown source or option, a value of another kind, or a source that
            cannot be read.
        ImportError: if the data set needs a package that is not installed.
    """
    if not isinstance(flip, bool):
        raise ValueError(f"flip={flip!r}; allowed are True and False")
    if isinstance(source, ImageDataset):
        if options:
            raise ValueError(f"options {sorted(options)} for a data set that is open already")
        dataset = source
    else:
        kind, arguments = _kind(source)
        parameters = inspect.signature(kind).parameters
        allowed = set(parameters) - {"path"}
        unknown = sorted(set(options) - allowed)
        if unknown:
            allowed |= {"flip"}
            raise ValueError(
                f"unknown options {unknown} for {source!s}; allowed are {sorted(allowed)}"
            )
        for name, value in options.items():
            if value is not None or parameters[name].default is not None:
                _check_type(name, value)
        dataset = kind(*arguments, **options)
    return Flipped(dataset) if flip else dataset


def _check_type(name: str, value: Any) -> None:
    wanted = _TYPES.get(name)
    if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
        what = "text" if wanted is str else "a whole number"
        raise ValueError(f"{name}={value!r}; allowed is {what}")
    if name == "photos":
        names = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(each, str) for each in names):
            raise ValueError(f"photos={value!r}; allowed are names")


def _kind(source: str | Path) -> tuple[Callable[..., ImageDataset], tuple[Path, ...]]:
    if isinstance(source, str) and source in DATASETS:
        return DATASETS[source], ()
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_kind(path), (path,)
    if path.is_file():
        for ending, kind in FILES.items():
            if path.name.lower().endswith(ending):
                return kind, (path,)
    raise ValueError(
        f"unknown data {source!s}; allowed are {', '.join(map(repr, DATASETS.names()))}, and the "
        "path of a folder with images, CIFAR's python batches or parquet files, of a .zip archive "
        "in EDM's format, of a .npz or .parquet file, or of CIFAR's .tar.gz"
    )


def _folder_kind(path: Path) -> Callable[..., ImageDataset]:
    if is_cifar(path):
        return CIFAR
    return Parquet if is_parquet(path) else ImageFolder
