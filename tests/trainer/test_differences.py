"""The fields in which a folder's run differs from the new one."""

from ctm_fast.trainer.differences import differences


def test_leaves_that_differ_are_named():
    saved = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    own = {"a": {"b": 2, "c": [1, 2]}, "e": 5}
    assert list(differences(saved, own, "checkpoint", "this run")) == [
        "a.b: checkpoint has 1, this run has 2",
        "d: checkpoint has None, this run has nothing",
        "e: checkpoint has nothing, this run has 5",
    ]
    assert list(differences(saved, dict(saved), "one", "two")) == []
    assert list(differences({"a": {"b": 1}}, {"a": 3}, "one", "two")) == [
        "a: one has {'b': 1}, two has 3"
    ]
