"""The data of a command: `--data SOURCE` and `--data-options KEY=VALUE ...`."""

from __future__ import annotations

from collections.abc import Iterable

from .. import data as datasets
from ..data import ImageDataset
from .overrides import parsed_overrides


def opened_data(source: str, words: Iterable[str] = ()) -> ImageDataset:
    """The data set of a source and of words such as `size=64`, `resize=adm`, `flip=true`.

    Raises:
        ValueError: as `data.open`, or for words that are not KEY=VALUE.
    """
    try:
        options = parsed_overrides(words)
    except ValueError as error:
        raise ValueError(f"--data-options: {error}") from None
    return datasets.open(source, **options)
