"""What kind of file a checkpoint is, and checks of its archive before PyTorch reads it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from .files import DamagedCheckpoint

_MOST_MEMBERS = 100_000  # storages of a network are far fewer
_MOST_PICKLE = 64 << 20  # bytes of the description of the tensors; a large network's is 1 MiB
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes before PyTorch 1.6
_OTHERS = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"version https://git-lfs", "is a pointer of Git LFS instead of the file itself"),
    (b"<", "is a web page or XML; the download probably failed"),
    (b"\x93NUMPY", "is a NumPy array"),
)


def file_kind(path: Path) -> str:
    """ "zip" or "legacy" (both of torch.save), or "safetensors".

    Raises:
        ValueError: for a missing file, a folder, or another kind of file, saying which.
        DamagedCheckpoint: for a file with nothing in it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; need a file")
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    with path.open("rb") as file:
        head = file.read(32)
    if len(head) < 16:
        raise DamagedCheckpoint(f"{path} has only {len(head)} bytes")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(_LEGACY):
        return "legacy"
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors"
    for start, what in _OTHERS:
        if head.startswith(start):
            raise ValueError(f"{path} {what}")
    if head[0] == 0x80 and head[1] <= 5:
        raise ValueError(
            f"{path} is a plain pickle, not a file of torch.save; networks of NVlabs/edm, ECT and "
            "TCM (network-snapshot-*.pkl) are read with format='edm'"
        )
    if head[0] & 0xF0 in (0x80, 0xD0) and head[1:2] >= b"\x80":
        raise ValueError(f"{path} looks like msgpack, as flax writes it, which is not supported")
    raise ValueError(f"{path} is no file of torch.save and no safetensors file")


def check_archive(path: Path) -> None:
    """Raise unless a zip file is what torch.save writes, of no more bytes than it seems.

    Raises:
        ValueError: for another archive, and for names or sizes that torch.save does not write.
        DamagedCheckpoint: for a truncated or damaged archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise DamagedCheckpoint(f"{path} is truncated or damaged: {error}") from None
    names = [member.orig_filename for member in members]
    if len(members) > _MOST_MEMBERS:
        raise ValueError(f"{path} is refused: it has {len(members)} members, far too many")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} is refused: names occur twice in the archive")
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise ValueError(f"{path} is refused: it names a path outside itself, {name!r}")
    if any(member.flag_bits & 1 for member in members):
        raise ValueError(f"{path} is encrypted")
    _check_content(path, names)
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > 2 * size:
        raise ValueError(
            f"{path} is refused: {size} bytes would unpack to {total}; torch.save does not compress"
        )
    pickles = [member.file_size for member in members if member.filename.endswith("/data.pkl")]
    if max(pickles) > _MOST_PICKLE:
        raise ValueError(f"{path} is refused: it describes its tensors in {max(pickles)} bytes")


def _check_content(path: Path, names: list[str]) -> None:
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner and "constants.pkl" not in inner:
        return
    what = "an archive, but not one of torch.save (it has no data.pkl)"
    if "constants.pkl" in inner:
        what = "a TorchScript program, which holds code; save its state_dict() instead"
    elif any(name.endswith(".npy") for name in names):
        what = "an archive of NumPy arrays (.npz)"
    elif any(name.endswith((".png", "dataset.json")) for name in names):
        what = "an archive of images; give it to ctm_fast.data.open"
    raise ValueError(f"{path} is {what}")
