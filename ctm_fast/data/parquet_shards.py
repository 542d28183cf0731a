"""What is read of parquet files: their columns, whole label columns, and images by row group."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .archive import MAX_MEMBER_BYTES
from .edm_labels import MAX_CLASSES

MAX_GROUP_BYTES = 2**30  # of the encoded images of one row group
MAX_METADATA_BYTES = 2**26  # of a file's description of itself
KEPT_BYTES = 2**28  # of encoded images that are kept in memory
_AT_ONCE = 16  # rows; a page of few bytes can stand for many of the largest images


@dataclass(frozen=True)
class Columns:
    """The columns of a file, by what they hold."""

    source: str
    images: dict[str, str]  # column to the path of its bytes
    integers: tuple[str, ...]
    all: tuple[str, ...]
    class_names: dict[str, tuple[str, ...]]

    def image(self, name: str | None, usual: Sequence[str]) -> str:
        """Path of the bytes of the image column.

        Raises:
            ValueError: if `name` is no such column, or none of the usual ones is there.
        """
        if name is not None:
            found = [name] if name in self.images else []
        else:
            found = [column for column in usual if column in self.images]
            found = found or (list(self.images) if len(self.images) == 1 else [])
        if found:
            return self.images[found[0]]
        raise ValueError(
            f"{self.source} has no image column {name or ' or '.join(usual)}; columns of bytes are "
            f"{sorted(self.images)}, all columns {list(self.all)}"
        )

    def label(self, name: str | None, usual: Sequence[str]) -> str | None:
        """The label column, None where none of the usual ones is there.

        Raises:
            ValueError: if `name`, or the usual column, is not one of whole numbers.
        """
        for column in (name,) if name is not None else usual:
            if column in self.integers:
                return column
            if name is not None or column in self.all:
                raise ValueError(
                    f"{self.source} has no label column {column!r} of whole numbers; these are "
                    f"{list(self.integers)}"
                )
        return None


def described(path: Path) -> Columns:
    """The columns of a parquet file.

    Raises:
        ImportError: without pyarrow.
        ValueError: for a damaged file.
    """
    import_pyarrow()
    import pyarrow.types as types

    with _errors(path), _opened(path) as file:
        schema = file.schema_arrow
        images, whole = {}, []
        for field in schema:
            if types.is_binary(field.type) or types.is_large_binary(field.type):
                images[field.name] = field.name
            elif types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                inner = field.type.field("bytes").type
                if types.is_binary(inner) or types.is_large_binary(inner):
                    images[field.name] = f"{field.name}.bytes"
            elif types.is_integer(field.type):
                whole.append(field.name)
        names = _class_names(schema.metadata or {})
        return Columns(str(path), images, tuple(whole), tuple(schema.names), names)


def integers(path: Path, column: str) -> np.ndarray:
    """A whole column, (rows,) int64.

    Raises:
        ValueError: for a damaged file, nulls, or values outside of [-1, 2**20).
    """
    with _errors(path), _opened(path) as file:
        table = file.read(columns=[column], use_threads=False)
        values = table.column(column)
        if values.null_count:
            raise ValueError(f"column {column!r} has {values.null_count} nulls")
        array = np.asarray(values.to_numpy()).astype(np.int64)
        if len(array) and not -1 <= array.min() <= array.max() < MAX_CLASSES:
            raise ValueError(f"column {column!r} goes from {array.min()} to {array.max()}")
        return array


class Shards:
    """Open files of one data set, and the images of the row groups that were read last."""

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        import_pyarrow()
        self.paths, self.column = list(paths), column
        self._metadata: list[Any] = []
        self.rows: list[list[int]] = []  # of each row group of each file
        for path in self.paths:
            with _errors(path), _opened(path) as file:
                self.rows.append(_group_rows(file, column))
                self._metadata.append(file.metadata)
        self._kept: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def image(self, file: int, group: int, row: int) -> bytes:
        """The bytes of one image.

        Raises:
            ValueError: for a damaged file, a null, or too many bytes.
        """
        with self._lock:
            images = self._kept.get((file, group))
            if images is None:
                images = self._kept[file, group] = self._read(file, group)
                self._kept_bytes += sum(map(len, images))
                while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                    _, dropped = self._kept.popitem(last=False)
                    self._kept_bytes -= sum(map(len, dropped))
            self._kept.move_to_end((file, group))
            return images[row]

    def _read(self, file: int, group: int) -> list[bytes]:
        path = self.paths[file]
        images: list[bytes] = []
        left = MAX_GROUP_BYTES
        with _errors(path), _opened(path, self._metadata[file]) as opened:
            for batch in opened.iter_batches(
                _AT_ONCE, row_groups=[group], columns=[self.column], use_threads=False
            ):
                values = batch.column(0)
                if self.column != batch.schema.names[0]:
                    values = values.field("bytes")
                left -= values.nbytes
                if left < 0:
                    raise ValueError(
                        f"row group {group} unpacks to more than {MAX_GROUP_BYTES} bytes"
                    )
                for image in values.to_pylist():
                    if image is None:
                        raise ValueError(f"row group {group} has no bytes in row {len(images)}")
                    if len(image) > MAX_MEMBER_BYTES:
                        raise ValueError(
                            f"an image of {len(image)} bytes, allowed are {MAX_MEMBER_BYTES}"
                        )
                    images.append(image)
            if len(images) != self.rows[file][group]:
                raise ValueError(f"row group {group} has {len(images)} rows, not as it says")
        return images


def import_pyarrow() -> Any:
    """The module pyarrow.parquet.

    Raises:
        ImportError: naming the extra, if it is not installed.
    """
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise ImportError('parquet files need pyarrow: pip install "ctm_fast[parquet]"') from error
    return module


def _opened(path: Path, metadata: Any = None) -> Any:
    return import_pyarrow().ParquetFile(
        path,
        metadata=metadata,
        page_checksum_verification=True,
        thrift_string_size_limit=MAX_METADATA_BYTES,
        thrift_container_size_limit=MAX_METADATA_BYTES,
    )


def _group_rows(file: Any, column: str) -> list[int]:
    if column.split(".")[0] not in file.schema_arrow.names:
        raise ValueError(f"there is no column {column!r}, which other files have")
    groups = range(file.num_row_groups)
    rows = [int(file.metadata.row_group(group).num_rows) for group in groups]
    if any(count < 0 for count in rows) or sum(rows) != file.metadata.num_rows:
        raise ValueError(f"its row groups have {sum(rows)} rows, not as it says")
    return rows


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # pyarrow raises many kinds on damaged files
        raise ValueError(f"{path} is damaged or not as it should be: {error}") from None


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each label column, from the note of the `datasets` library."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        found = {}
        for column, feature in features.items():
            names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                found[str(column)] = tuple(names)
        return found
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
