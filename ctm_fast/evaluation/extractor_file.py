"""Extractors that come as one file: exported programs (.pt2) and TorchScript (.pt)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .extractor import Extractor
from .weights import checked_bytes, file_sha256

SUFFIXES = (".pt2", ".pt")


def extractor_from_file(
    path: str | Path,
    sha256: str | None,
    side: int | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """Extractor of a file written by `torch.export.save` or `torch.jit.save`.

    The network takes (b, 3, H, W) uint8 and gives (b, D) features, or them and (b, K) logits. A
    TorchScript network with an argument `return_features`, as NVIDIA's published
    inception-2015-12-05.pt, is called with `return_features=True`.

    Args:
        path: the file.
        sha256: of the file; needed, because such a file is a program.
        side: see `Extractor`.
        device: where to compute.

    Raises:
        ValueError: for another ending, a missing file, no or another SHA-256, or a file that cannot
            be read.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"extractor {str(path)!r}: allowed are 'inception' and files ending in "
            f"{' or '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise ValueError(f"extractor {path} does not exist")
    if sha256 is None:
        raise ValueError(
            f"extractor {path} is a program; if you trust where it comes from, say so with its "
            f"SHA-256, which is {file_sha256(path)} (on the command line --sha256)"
        )
    content, digest = checked_bytes(path, sha256)
    read = _exported if path.suffix == ".pt2" else _scripted
    try:
        network = read(io.BytesIO(content), torch.device(device))
    except Exception as error:  # readers raise many things
        raise ValueError(f"extractor {path} cannot be read: {str(error).splitlines()[0]}") from None
    return Extractor(network, path.name, digest, side, "as in the file", device)


def _exported(content: io.BytesIO, device: torch.device) -> Any:
    program = torch.export.load(content)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module()
    # An exported program is fixed in the mode in which it was exported, and refuses `eval()`.
    return lambda images: module(images)


def _scripted(content: io.BytesIO, device: torch.device) -> Any:
    module = torch.jit.load(content, map_location=device).eval()
    names = {argument.name for argument in module.forward.schema.arguments}
    return _Features(module).eval() if "return_features" in names else module


class _Features(nn.Module):
    """Calls a network that gives features on request."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, return_features=True)
