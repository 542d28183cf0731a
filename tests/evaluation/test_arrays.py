"""Files of arrays: round trips, and hostile or damaged ones that are refused before they cost."""

import io
import zipfile

import numpy as np
import pytest

from ctm_fast.evaluation import arrays
from ctm_fast.evaluation.arrays import array_names, read_arrays, write_arrays


class Hostile:
    def __reduce__(self):
        return (print, ("code ran",))


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """Beginning of a .npy file."""
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def archive(path, **members: bytes):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_round_trip(tmp_path) -> None:
    arrays = {
        "mu": np.arange(3.0),
        "pixels": np.zeros((2, 4, 4, 3), np.uint8),
        "text": np.array('{"a": "ä"}'),
    }
    path = write_arrays(tmp_path / "new" / "a.npz", arrays)
    assert array_names(path) == ("mu", "pixels", "text")
    found = read_arrays(path, ("mu", "text", "absent"))
    assert set(found) == {"mu", "text"} and str(found["text"]) == '{"a": "ä"}'
    np.testing.assert_array_equal(found["mu"], arrays["mu"])
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"], "leftovers"


def test_compressed_and_fortran_order(tmp_path) -> None:
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez_compressed(tmp_path / "a.npz", sigma=value)
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz", ["sigma"])["sigma"], value)


def test_pickles_are_not_read(tmp_path, capsys) -> None:
    np.savez(tmp_path / "a.npz", mu=np.array([Hostile()], dtype=object), sigma=np.ones(2))
    with pytest.raises(ValueError, match="mu has dtype object"):
        read_arrays(tmp_path / "a.npz", ("mu", "sigma"))
    assert "code ran" not in capsys.readouterr().out
    # An array that is not asked for is not touched.
    assert set(read_arrays(tmp_path / "a.npz", ("sigma",))) == {"sigma"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((1 << 40,)), "claims 8796093022208 bytes and has 0"),
        (header((2,)) + b"\0" * 24, "claims 16 bytes and has 24"),
        (header((2,), "O") + b"\0" * 16, "has dtype object"),
        (b"not numpy", "no plain array"),
        (b"\x93NUMPY\x09\x00", "no plain array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 99, r"version \(2, 0\), allowed is \(1"),
        (b"\x93NUMPY\x01\x00\x40\x00" + b"[" * 64, "no plain array"),
        (header((2,))[:20], "no plain array"),
    ],
)
def test_headers_that_lie(content, message, tmp_path) -> None:
    path = archive(tmp_path / "a.npz", mu=content)
    with pytest.raises(ValueError, match=message):
        read_arrays(path, ["mu"])


def test_a_compression_bomb(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, mu=np.zeros(100_000))
    assert read_arrays(path, ["mu"])["mu"].shape == (100_000,)
    monkeypatch.setattr(arrays, "RATIO_FROM", 10_000)
    with pytest.raises(ValueError, match=r"mu unpacks from \d+ to 800000 bytes, allowed is 200"):
        read_arrays(path, ["mu"])


def test_damaged_files(tmp_path) -> None:
    path = write_arrays(tmp_path / "a.npz", {"mu": np.arange(100.0)})
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="is damaged"):
        read_arrays(path, ["mu"])
    path.write_bytes(bytes(whole[:100]))
    with pytest.raises(ValueError, match=r"no \.npz file"):
        read_arrays(path, ["mu"])
    with pytest.raises(ValueError, match="does not exist"):
        read_arrays(tmp_path / "absent.npz", ["mu"])


def test_two_arrays_of_one_name(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("mu.npy", header((0,)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("mu.npy", header((0,)))
    with pytest.raises(ValueError, match="two arrays of one name"):
        array_names(tmp_path / "a.npz")


def test_what_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"end in .npz, got 'a.npy'"):
        write_arrays(tmp_path / "a.npy", {"mu": np.ones(1)})
    with pytest.raises(ValueError, match="it would be pickled"):
        write_arrays(tmp_path / "a.npz", {"mu": np.array([None])})
    assert not list(tmp_path.iterdir())
