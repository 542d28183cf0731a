"""Tables of names, and the JSON form of what they name."""

import json
from dataclasses import dataclass, field

import pytest

from ctm_fast.registry import Registry, choice, fields_from_json, fields_to_json


@dataclass(frozen=True)
class Leaf:
    size: float = 1.0
    levels: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Other:
    name_of_it: str = "x"


HERE = __name__
TABLE = Registry("leaf", {"leaf": f"{HERE}:Leaf", "other": f"{HERE}:Other"})


@dataclass(frozen=True)
class Tree:
    inner: Leaf = field(default_factory=Leaf)
    chosen: object = choice(f"{HERE}:TABLE", Leaf)
    depth: int = 3
    derived: int = field(default=0, init=False)


def test_names_and_items():
    assert TABLE.names() == ["leaf", "other"] and list(TABLE) == ["leaf", "other"]
    assert TABLE["leaf"] is Leaf and "leaf" in TABLE and "tree" not in TABLE


def test_unknown_name_says_what_there_is():
    with pytest.raises(ValueError, match=r"unknown leaf 'tree'; choose from \['leaf', 'other'\]"):
        TABLE["tree"]


def test_modules_are_imported_on_first_use_only():
    lazy = Registry("thing", {"missing": "no.such.module:Thing"})
    assert lazy.names() == ["missing"]
    with pytest.raises(ModuleNotFoundError):
        lazy["missing"]


def test_name_of_is_the_inverse():
    assert TABLE.name_of(Other()) == "other"
    with pytest.raises(ValueError, match="not a registered leaf"):
        TABLE.name_of(3)


def test_json_round_trip():
    value = Leaf(2.5, (4, 5, 6))
    data = json.loads(json.dumps(TABLE.to_json(value)))
    assert data == {"name": "leaf", "size": 2.5, "levels": [4, 5, 6]}
    assert TABLE.from_json(data) == value


def test_nested_and_chosen_fields_round_trip():
    value = Tree(Leaf(3.0), Other("y"), 5)
    data = json.loads(json.dumps(fields_to_json(value)))
    assert data["chosen"] == {"name": "other", "name_of_it": "y"}
    assert "derived" not in data
    assert fields_from_json(Tree, data, "tree") == value


@pytest.mark.parametrize("chosen", [(), (Leaf(3.0), Other("y"), Leaf())])
def test_a_tuple_of_chosen_objects_round_trips(chosen):
    value = Tree(chosen=chosen)
    data = json.loads(json.dumps(fields_to_json(value)))
    assert [item["name"] for item in data["chosen"]] == ["leaf", "other", "leaf"][: len(chosen)]
    assert fields_from_json(Tree, data, "tree") == value


def test_unknown_fields_are_an_error():
    with pytest.raises(ValueError, match=r"unknown fields \['sise'\] for leaf 'leaf'"):
        TABLE.from_json({"name": "leaf", "sise": 2})
    with pytest.raises(ValueError, match=r"unknown fields \['sise'\]"):
        fields_from_json(Tree, {"inner": {"sise": 2}}, "tree")


@pytest.mark.parametrize("data", [{}, {"name": "tree"}, {"name": None}])
def test_a_missing_or_unknown_name_is_an_error(data):
    with pytest.raises(ValueError, match="unknown leaf"):
        TABLE.from_json(data)
