"""Tensors in a plain pickle: each storage is a byte string that torch.save wrote."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pickle_machine import Allowed, Blob
from .files import DamagedCheckpoint

# Start of torch.save's format without an archive, which storages in a pickle always have. An
# archive could expand to any size.
_OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_MAX_NDIM = 8
_DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class Storage:
    """The bytes of a storage, not read yet."""

    data: bytes | Blob


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Tensors:
    """Reads tensors; tensors of the same storage share its memory.

    Args:
        limit: bytes that all storages together may have: the size of their file.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._storages: dict[int, tuple[Storage, torch.UntypedStorage, torch.dtype]] = {}

    def read(self, stored: Stored, name: str) -> Tensor:
        """The tensor, on the CPU.

        Raises:
            ValueError: for something else than a storage, or one that the tensor does not fit in.
            DamagedCheckpoint: for a storage that is truncated.
        """
        key = id(stored.storage)
        if key not in self._storages:
            storage, dtype = _loaded(stored.storage.data, name)
            self.limit -= storage.nbytes()
            if self.limit < 0:
                raise ValueError("the tensors of the pickle are larger than its file")
            self._storages[key] = stored.storage, storage, dtype
        _, storage, dtype = self._storages[key]
        last = stored.offset + sum(
            (size - 1) * stride for size, stride in zip(stored.size, stored.stride, strict=True)
        )
        empty = 0 in stored.size
        if not empty and last >= storage.nbytes() // dtype.itemsize:
            raise DamagedCheckpoint(f"{name} of size {stored.size} does not fit its storage")
        tensor = torch.empty(0, dtype=dtype)
        return tensor.set_(storage, stored.offset, stored.size, stored.stride)


def _loaded(data: bytes | Blob, name: str) -> tuple[torch.UntypedStorage, torch.dtype]:
    content = data.read() if isinstance(data, Blob) else data
    if not content.startswith(_OLD_TORCH):
        raise ValueError(f"the storage of {name} is not one that torch.save wrote")
    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # The refusals of torch.load are of many types, and its texts end with advice to trust.
        reason = str(error).split("\n")[0][:200]
        raise ValueError(
            f"the storage of {name} is damaged or not a plain storage, and nothing of it was run "
            f"({type(error).__name__}: {reason})"
        ) from None
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError(f"the storage of {name} is a {type(storage).__name__}")
    return storage._untyped_storage, storage.dtype


def _storage(data: Any) -> Storage:
    if not isinstance(data, bytes | Blob):
        raise TypeError
    return Storage(data)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *rest: Any
) -> Stored:
    if not isinstance(storage, Storage):
        raise TypeError
    for value in (offset, *size, *stride):
        if type(value) is not int or not 0 <= value < 2**48:
            raise TypeError
    if len(size) != len(stride) or len(size) > _MAX_NDIM:
        raise TypeError
    return Stored(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *rest: Any) -> Stored:
    if not isinstance(data, Stored):
        raise TypeError
    return data


def _size(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError
    return tuple(values)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str:
        raise TypeError
    return kind


TENSORS = {
    "torch._utils._rebuild_tensor_v2": Allowed(_tensor),
    "torch._utils._rebuild_parameter": Allowed(_parameter),
    "torch.storage._load_from_bytes": Allowed(_storage),
    "torch.Size": Allowed(_size),
    "torch.device": Allowed(_device),
    **{f"torch.{name}": Allowed(value=f"torch.{name}") for name in _DTYPES},
}
