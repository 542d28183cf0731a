"""Models as folders and as repositories of the Hugging Face Hub.

A folder holds `model.safetensors` (our format, the only file that is believed), `config.json` and a
model card. The network is used for names of repositories only, and only through huggingface_hub,
which comes with `pip install ctm_fast[hub]`.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..denoiser import Denoiser
from .files import write_text
from .loading import load
from .model_card import LIBRARY, TAGS, config_json, model_card
from .native import header, save
from .sniffing import WEIGHTS

# What a repository needs: ours, and the parts of a diffusers folder that are read.
_WANTED = (
    *(WEIGHTS, "config.json", "model_index.json", "diffusion_pytorch_model.safetensors"),
    *("unet/*.json", "unet/*.safetensors", "scheduler/*.json"),
)
_VARIANTS = ("*.fp16.*", "*.non_ema.*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"\.(safetensors|pkl|pickle|pt|pth|ckpt|bin)$", re.IGNORECASE)


def save_pretrained(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    **provenance: Any,
) -> Path:
    """Write a model as a folder that `from_pretrained` and `load` read; returns the folder.

    Args:
        denoiser: model whose network is one of `ctm_fast.models`.
        folder: made if it does not exist; files of the same names are replaced.
        name: how the model card says the model is loaded; the folder's name if not given.
        licence: identifier of the weights' licence for the model card; "unknown" if not given.
        provenance: as in `save`.

    Raises:
        ValueError: as `save`, or if `folder` is a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; need a folder")
    folder.mkdir(parents=True, exist_ok=True)
    described = header(save(denoiser, folder / WEIGHTS, **provenance))
    write_text(folder / "config.json", config_json(described))
    card = model_card(described, name or folder.resolve().name, licence)
    write_text(folder / "README.md", card)
    return folder


def from_pretrained(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
    format: str = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Denoiser:
    """Model of a folder, of a file, or of a repository on the Hugging Face Hub.

    What exists on disk never touches the network. Of a repository only .safetensors and .json
    files are fetched. Every weight has to fit, as in `load`.

    Args:
        name_or_folder: a folder or file, or the name of a repository ("owner/name").
        revision: branch, tag or commit of the repository; pin a commit to get the same file again.
        cache_dir: where repositories are kept; huggingface_hub's cache if not given.
        token: access token of private repositories.
        local_files_only: take the repository from the cache; by default as HF_HUB_OFFLINE says.
        format: as in `load`.
        device: as in `load`.
        dtype: as in `load`.
        overrides: as in `load`.

    Raises:
        ValueError: as `load`, or for a name that is neither on disk nor that of a repository.
        FileNotFoundError: for a repository that is not in the cache when it must be.
        ImportError: without huggingface_hub, for the name of a repository.
    """
    options = {"format": format, "device": device, "dtype": dtype, **overrides}
    path = Path(name_or_folder)
    if path.exists():
        for key, value in (("revision", revision), ("token", token)):
            if value is not None:
                raise ValueError(f"{key} is for repositories, and {path} is on this disk")
        return load(path, **options)
    name = str(name_or_folder)
    if not _REPOSITORY.fullmatch(name) or _FILE.search(name):
        raise ValueError(f"{name} does not exist, and is no repository name (owner/name) either")
    if local_files_only is None:
        local_files_only = _offline()
    hub = _huggingface_hub()
    try:
        folder = hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_VARIANTS),
        )
    except hub.errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not on this disk or in the cache, and could not be fetched "
            f"(local_files_only={local_files_only}): {error}"
        ) from None
    return load(folder, **options)


def push_to_hub(
    denoiser: Denoiser,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    commit_message: str = "Model of ctm_fast",
    licence: str | None = None,
    **provenance: Any,
) -> str:
    """Publish a model on the Hugging Face Hub; returns the address of the commit.

    Args:
        denoiser: as in `save_pretrained`.
        repo_id: "owner/name"; made if it does not exist.
        private: whether a new repository is private; None: the owner's default.
        token: access token that may write.
        branch: which one to write; the main one if not given.
        commit_message: of the commit.
        licence: as in `save_pretrained`.
        provenance: as in `save`.

    Raises:
        ValueError: as `save_pretrained`.
        ImportError: without huggingface_hub.
    """
    model = hub_class()(denoiser, licence, provenance)
    options = {"private": private, "token": token, "branch": branch}
    address: str = model.push_to_hub(repo_id, commit_message=commit_message, **options)
    return address


@functools.cache
def hub_class() -> Any:
    """`HubDenoiser`: a `Denoiser` as a module with huggingface_hub's PyTorchModelHubMixin.

    Its `save_pretrained`, `from_pretrained` and `push_to_hub` are those of this file: strict, and
    safetensors only.

    Raises:
        ImportError: without huggingface_hub.
    """
    mixin: Any = _huggingface_hub().PyTorchModelHubMixin

    class HubDenoiser(nn.Module, mixin, library_name=LIBRARY, tags=list(TAGS)):  # type: ignore[call-arg]
        """`denoiser`, called as it is."""

        def __init__(
            self,
            denoiser: Denoiser,
            licence: str | None = None,
            provenance: dict[str, Any] | None = None,
        ) -> None:
            super().__init__()
            self.denoiser = denoiser
            self.licence, self.provenance = licence, dict(provenance or {})
            self.name: str | None = None

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.denoiser(*args, **kwargs)

        def _save_pretrained(self, save_directory: Path) -> None:
            save_pretrained(
                self.denoiser,
                save_directory,
                name=self.name,
                licence=self.licence,
                **self.provenance,
            )

        def push_to_hub(self, repo_id: str, **options: Any) -> str:
            """As huggingface_hub's; the model card says `repo_id`."""
            self.name = repo_id
            return str(super().push_to_hub(repo_id, **options))

        @classmethod
        def from_pretrained(cls, name: str | Path, **options: Any) -> Any:
            """As the function of this file, in a `HubDenoiser`."""
            return cls(from_pretrained(name, **options))

    return HubDenoiser


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"repositories of the Hugging Face Hub need `pip install ctm_fast[hub]` ({error})"
        ) from None
    return huggingface_hub


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
