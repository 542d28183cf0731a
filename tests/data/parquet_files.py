"""Parquet files as the Hugging Face Hub keeps image sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .cifar_files import NAMES
from .image_files import encoded, pixels


def hub_note(**class_names: list[str]) -> dict[bytes, bytes]:
    """What the `datasets` library writes into a schema."""
    features = {k: {"names": v, "_type": "ClassLabel"} for k, v in class_names.items()}
    content = {"info": {"features": {"img": {"_type": "Image"}, **features}}}
    return {b"huggingface": json.dumps(content).encode()}


def table(seeds: range, image: str = "img", note: bool = True, **columns: Any) -> pa.Table:
    """Images `pixels(seed)` with labels seed % 10 in the Hub's columns."""
    images = [{"bytes": encoded(pixels(seed)), "path": f"{seed}.png"} for seed in seeds]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    content: dict[str, Any] = {image: pa.array(images, kind)}
    content["label"] = pa.array([seed % 10 for seed in seeds], pa.int64())
    for name, value in columns.items():
        if value is None:
            content.pop(name)
        else:
            content[name] = value
    made = pa.table(content)
    return made.replace_schema_metadata(hub_note(label=NAMES)) if note else made


def write(path: Path, made: pa.Table, rows: int = 4, **options: Any) -> Path:
    """A parquet file with row groups of `rows` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=rows, **options)
    return path
