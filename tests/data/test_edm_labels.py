"""EDM's label file: classes, vectors, nothing, and everything that is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.data.edm_labels import parsed_labels


def parse(content, names=("a.png", "b.png")):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parsed_labels(text, names, "set.zip")


def test_classes_in_the_order_of_the_images():
    labels = parse({"labels": [["b.png", 3], ["a.png", 1], ["other.png", 9]]})
    assert labels.dtype == torch.int64 and labels.tolist() == [1, 3]


def test_backslashes_in_names_are_slashes():
    assert parse({"labels": [["x\\a.png", 4]]}, ["x/a.png"]).tolist() == [4]


def test_vectors():
    labels = parse({"labels": [["a.png", [0.5, 1]], ["b.png", [2, 3]]]})
    assert labels.dtype == torch.float32 and labels.tolist() == [[0.5, 1], [2, 3]]


@pytest.mark.parametrize("content", [{"labels": None}, {}, {"other": 1}])
def test_no_labels(content):
    assert parse(content) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"labels": [["a.png", 1' + b"0" * 5000 + b"]]}", "not valid JSON|allowed are"),
        ({"labels": 3}, "must be"),
        ([["a.png"]], "must be"),
        ({"labels": [["a.png", 1], [7, 1]]}, "must be"),
        ({"labels": [["a.png", 1]]}, "no label for 1 of 2 images, for example 'b.png'"),
        ({"labels": [["a.png", 1], ["b.png", -1]]}, "class -1, allowed are 0 to 1048575"),
        ({"labels": [["a.png", 1], ["b.png", 2**80]]}, "allowed are 0 to 1048575"),
        ({"labels": [["a.png", 1], ["b.png", True]]}, "kind"),
        ({"labels": [["a.png", 1], ["b.png", [1.0]]]}, "kind"),
        ({"labels": [["a.png", "cat"], ["b.png", "dog"]]}, "kind"),
        ({"labels": [["a.png", 1.5], ["b.png", 2.0]]}, "kind"),
        ({"labels": [["a.png", [1]], ["b.png", [1, 2]]]}, "one length"),
        ({"labels": [["a.png", []], ["b.png", []]]}, "one length"),
        ({"labels": [["a.png", [1]], ["b.png", ["x"]]]}, "finite numbers"),
        ({"labels": [["a.png", [1]], ["b.png", [float("nan")]]]}, "finite numbers"),
        ({"labels": [["a.png", [1]], ["b.png", [1e300]]]}, "finite numbers"),
        ({"labels": [["a.png", [1]], ["b.png", [10**400]]]}, "finite numbers"),
        ({"labels": [["a.png", 1], ["b.png", 2], ["a.png", 2]]}, "two different labels"),
    ],
)
def test_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: {"labels": value}))
def test_any_content_gives_labels_or_a_value_error(content):
    try:
        labels = parse(content)
    except ValueError as error:
        assert str(error).startswith("set.zip: ")
    else:
        assert labels is None or len(labels) == 2
