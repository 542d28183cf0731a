"""KEY=VALUE words."""

import pytest

from ctm_fast.cli.overrides import parsed_overrides


def test_values():
    words = "kind=consistency n=64 r=0.5 on=true no=null m=1,2,3 l=[4] e= t=a=b o=1, s='x'"
    assert parsed_overrides(words.split()) == {
        "kind": "consistency",
        "n": 64,
        "r": 0.5,
        "on": True,
        "no": None,
        "m": (1, 2, 3),
        "l": (4,),
        "e": "",
        "t": "a=b",
        "o": "1,",
        "s": "'x'",
    }


@pytest.mark.parametrize("word", ["kind", "=3", "a b=3", "--kind=x", ""])
def test_what_is_no_override(word):
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parsed_overrides([word])


def test_a_name_may_come_once():
    with pytest.raises(ValueError, match="kind is given twice"):
        parsed_overrides(["kind=a", "kind=b"])
