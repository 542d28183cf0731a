"""CIFAR batches: what Python 2 and 3 wrote is read, and nothing of a pickle is ever run."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctm_fast.data import cifar_batch
from ctm_fast.data.cifar_batch import read_batch

from .cifar_files import NAMES, batch, meta, python_2, rows


def test_a_batch_of_python_2():
    found = read_batch(batch(3), "b")
    assert np.array_equal(found["data"], rows(3, 4)) and found["data"].dtype == np.uint8
    assert found["labels"] == [3, 4, 5, 6] and found["batch_label"] == "training batch 3 of 5"
    assert found["filenames"][3] == "leptodactylus_s_000003.png"
    # What the writer of these tests makes is what Python itself reads.
    python = pickle.loads(batch(3), encoding="latin1")
    assert np.array_equal(python["data"], found.pop("data"))
    assert {k: v for k, v in python.items() if k != "data"} == found


def test_the_names_of_the_classes():
    found = read_batch(meta(), "m")
    assert found == {"num_cases_per_batch": 10000, "label_names": NAMES, "num_vis": 3072}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_batches_that_python_3_wrote(protocol, order):
    values = np.array(rows(0, 5), order=order)
    content = {b"data": values, b"labels": list(range(5)), "name": b"\xe9t\xe9"}
    found = read_batch(pickle.dumps(content, protocol), "b")
    assert np.array_equal(found["data"], values)
    assert found["labels"] == [0, 1, 2, 3, 4] and found["name"] == "été"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, protocol):
    touched = tmp_path / "touched"
    content = pickle.dumps({"data": rows(0, 1), "labels": [0], "more": Bomb(touched)}, protocol)
    with pytest.raises(ValueError, match=r"evil: the pickle asks for '(io|__builtin__)\.open'"):
        read_batch(content, "evil")
    assert not touched.exists()
    pickle.loads(content)["more"].close()
    assert touched.exists(), "the attack itself works"


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02cos\nsystem\nU\x04true\x85R.",
        b"\x80\x02cposix\nsystem\nU\x04true\x85R.",
        b"\x80\x02c__builtin__\neval\nU\x011\x85R.",
        b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\nN\x85R.",
        b"\x80\x02cnumpy\nndarray\nK\x01\x85\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02c_codecs\nencode\n}b.",
        b"(lp0\nS'a'\n.",
    ],
)
def test_calls_and_old_protocols_are_refused(code):
    with pytest.raises(ValueError, match=r"^f: "):
        read_batch(code, "f")


def test_the_allow_list_names_nothing_but_arrays_of_bytes_and_byte_strings():
    assert set(cifar_batch.ALLOWED) == {
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "__builtin__.bytes",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python_2([1, 2]), "holds a list, not a dictionary"),
        (python_2({"data": np.zeros((2, 3072), np.float32)}), "NumPy dtype 'f4', allowed is 'u1'"),
        (python_2({"data": np.zeros((2, 3071), np.uint8)}), r"array \(2, 3071\), allowed are \(N"),
        (pickle.dumps({"data": np.zeros((2, 3, 1024), np.uint8)}, 2), r"array \(2, 3, 1024\)"),
        (pickle.dumps({"data": np.array([object()])}, 2), "NumPy dtype 'O8'"),
        (pickle.dumps({"data": np.array(["a"], object)}, 2), "NumPy dtype 'O8'"),
        (batch(0)[:-9], "truncated"),
        (b"", "not a pickle"),
    ],
)
def test_other_content(content, message):
    with pytest.raises(ValueError, match=f"^f: .*{message}"):
        read_batch(content, "f")


def test_an_array_that_claims_more_than_it_has():
    content = batch(0).replace(b"M\x04\x00M\x00\x0c\x86", b"M\x05\x00M\x00\x0c\x86")
    with pytest.raises(ValueError, match=r"array \(5, 3072\) of other length"):
        read_batch(content, "f")


# Tuples of themselves, whose text has 2**200 parts, and tuples in each other beyond any recursion.
DOUBLED = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 200
NESTED = b")" + b"\x85" * 100_000
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BYTE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


PLACES = [
    (b"\x80\x02cnumpy\ndtype\n", b"\x85R."),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a", b"\x86R."),
    (b"\x80\x02" + ARRAY + b"(K\x01", BYTE + b"\x89U\x00tb."),
    (b"\x80\x02" + ARRAY + b"(K\x01K\x02", b"\x86" + BYTE + b"\x89U\x00tb."),
]
ONE_BY_ONE = """
import sys
from ctm_fast.data.cifar_batch import read_batch
for line in sys.stdin:
    try:
        read_batch(bytes.fromhex(line), "f")
    except ValueError as error:
        print(error)
"""


def test_values_without_end_are_not_shown():
    contents = [before + value + after for before, after in PLACES for value in (DOUBLED, NESTED)]
    lines = "\n".join(content.hex() for content in contents)
    # In a process of its own: what goes on for ever cannot be stopped from within.
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        cwd=Path(__file__).resolve().parents[2],
        input=lines.encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    said = done.stdout.decode().splitlines()
    assert len(said) == len(contents) and all(line.startswith("f: ") for line in said)


def test_damaged_batches_give_a_dictionary_or_a_value_error():
    sound = batch(0, 1)
    # Most bytes are pixels; the others are where reading can go wrong.
    places = [i for i in range(len(sound)) if i < 250 or i > len(sound) - 60]
    generator = random.Random(0)
    outcomes = set()
    for _ in range(1500):
        content = bytearray(sound)
        for _ in range(generator.randint(1, 3)):
            content[generator.choice(places)] = generator.randrange(256)
        try:
            outcomes.add(type(read_batch(bytes(content), "f")))
        except ValueError as error:
            assert str(error).startswith("f: ")
            outcomes.add(ValueError)
    assert outcomes == {dict, ValueError}
