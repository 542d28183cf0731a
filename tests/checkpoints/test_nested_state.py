"""Finding the state dict in what training scripts save."""

import collections

import pytest
import torch

from ctm_fast.checkpoints.nested_state import find_state

STATE = {f"layer{i}.weight": torch.full((2,), float(i)) for i in range(12)}
OTHER = {name: value + 100 for name, value in STATE.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


def prefixed(prefix, state=STATE):
    return {f"{prefix}.{name}": value for name, value in state.items()}


def same(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[n], state[n]) for n in state)


def test_bare_states_need_no_note():
    state, notes = find_state(collections.OrderedDict(STATE))
    assert same(state, STATE) and notes == []


@pytest.mark.parametrize("name", ["model", "state_dict", "ema", "net", "params", "anything"])
def test_nested_states(name):
    saved = {name: STATE, "optimizer": OPTIMIZER, "step": 3, "epoch": torch.tensor(4)}
    state, notes = find_state(saved)
    assert same(state, STATE)
    beside = "epoch, optimizer, step"
    assert notes == [
        f"weights taken from {name!r}; besides it there are {beside} (choose with which=)"
    ]


def test_averaged_weights_are_preferred_and_the_choice_is_ours():
    saved = {"model": STATE, "model_ema": OTHER}
    state, notes = find_state(saved)
    assert same(state, OTHER) and "'model_ema'; besides it there are model" in notes[0]
    assert same(find_state(saved, "model")[0], STATE)
    with pytest.raises(ValueError, match=r"no 'ema' in the file; choose from \['model', 'model_e"):
        find_state(saved, "ema")


def test_several_states_without_a_usual_name():
    with pytest.raises(ValueError, match=r"several states, \['a', 'b'\]; choose one with which="):
        find_state({"a": STATE, "b": OTHER})
    assert same(find_state({"a": STATE, "b": OTHER}, strict=False)[0], STATE)


def test_copies_under_different_prefixes():
    saved = {"model": {**prefixed("net"), **prefixed("net_ema", OTHER)}}
    with pytest.raises(ValueError, match=r"several networks, \['net', 'net_ema'\]; choose one"):
        find_state(saved)
    assert same(find_state(saved["model"], "net_ema")[0], OTHER)
    assert same(find_state(saved, strict=False)[0], STATE)


def test_twice_nested_states_and_leftovers():
    state, notes = find_state({"checkpoint": {"state_dict": {**STATE, "version": 3}}})
    assert same(state, STATE)
    assert [note.split(";")[0] for note in notes] == [
        "weights taken from 'checkpoint'",
        "weights taken from 'state_dict'",
        "ignored what is no tensor: version",
    ]


def test_a_dictionary_that_holds_itself():
    saved = {}
    saved["model"] = saved
    with pytest.raises(ValueError, match="holds no tensors"):
        find_state(saved)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (OPTIMIZER, "state of an optimizer"),
        ({"optimizer": OPTIMIZER, "step": 3}, "holds no tensors, only"),
        ({0: torch.zeros(1)}, "keys are not names"),
        ([torch.zeros(1)] * 3, "a list of 3 tensors .LPIPS"),
        (torch.zeros(2, 3), "a single tensor of shape .2, 3."),
        (None, "a NoneType, not a state dict"),
        ({}, "holds no tensors"),
    ],
)
def test_other_things(saved, message):
    with pytest.raises(ValueError, match=message):
        find_state(saved)
