"""Files are checked by SHA-256 before they are looked into."""

import hashlib

import pytest
import torch

from ctm_fast.evaluation.weights import checked_bytes, file_sha256, module_sha256
from tests.evaluation.small import Features


def test_content_of_a_file_with_the_right_digits(tmp_path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert checked_bytes(file, digest.upper()) == (b"abc", digest)
    assert checked_bytes(file, digest[:8]) == (b"abc", digest)
    assert file_sha256(file) == digest


@pytest.mark.parametrize("digits", ["", "abc", "g" * 64, "a" * 65])
def test_digits_that_are_none(digits, tmp_path) -> None:
    with pytest.raises(ValueError, match="8 to 64 hexadecimal digits"):
        checked_bytes(tmp_path / "absent", digits)


def test_another_file_is_refused(tmp_path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abd")
    with pytest.raises(ValueError, match="it was not read"):
        checked_bytes(file, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(ValueError, match="does not exist"):
        checked_bytes(tmp_path / "absent", "0" * 64)


def test_modules_differ_by_weights_and_not_by_where_they_are() -> None:
    assert module_sha256(Features(0)) == module_sha256(Features(0))
    assert module_sha256(Features(0)) != module_sha256(Features(1))
    assert module_sha256(Features(0).double()) != module_sha256(Features(0))
    turned = Features(0).to(memory_format=torch.channels_last)
    assert module_sha256(turned) == module_sha256(Features(0))
