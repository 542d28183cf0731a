"""The Inception-v3 of the published FID values, through torch-fidelity and a local weight file."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .extractor import Extractor
from .weights import checked_bytes

NAME = "inception-v3-2015-12-05"
WIDTH = 2048
# The same bytes under two names; eight digits of their SHA-256 are in both.
FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
SHA256 = "6726825d"
PLACES = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + FILES[0],
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + FILES[1],
)


def inception(
    weights: str | Path | None, sha256: str | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    """Extractor with 2048 features and 1008 logits without bias; resizes as TensorFlow 1 did.

    The weights are read with `weights_only=True`, whatever torch-fidelity does itself.

    Args:
        weights: path of the file; nothing is ever downloaded.
        sha256: of the file; the published digits if not given.
        device: where to compute.

    Raises:
        ValueError: if there is no such file (saying what to fetch from where), if its SHA-256 is
            another, or if it is not these weights.
        ImportError: without torch-fidelity, or without torchvision, which it needs.

    Source: Szegedy et al. 2015; the network of TensorFlow's inception-2015-12-05, as in
        Heusel et al. 2017.
    """
    if weights is None or not Path(weights).is_file():
        what = "no weights are given" if weights is None else f"{weights} does not exist"
        raise ValueError(
            f"{what}: Inception needs the file {FILES[1]} (91 MB, SHA-256 {SHA256}..., the same as "
            f"{FILES[0]}) as weights=PATH, on the command line --weights PATH. It is not "
            f"downloaded here; fetch it from {PLACES[0]} or {PLACES[1]}"
        )
    content, digest = checked_bytes(Path(weights), sha256 or SHA256)
    network = _network(_state(content, Path(weights))).to(device)
    return Extractor(
        network, NAME, digest, resizing="bilinear to 299 as TensorFlow 1, inside", device=device
    )


def _state(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many things
        raise ValueError(f"{path} is no file of weights: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is no state dict")
    return state


def _network(state: dict[str, Tensor]) -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "Inception needs torch-fidelity, and that torchvision "
            f"(pip install 'ctm_fast[eval]' torchvision): {error}"
        ) from None
    # Its constructor reads a path, and not safely: it gets a file that was written here.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(state, file)
        try:
            made = FeatureExtractorInceptionV3(
                NAME, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
            )
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"these are not the weights of {NAME}: {str(error).splitlines()[0]}"
            ) from None
    return made.eval()
