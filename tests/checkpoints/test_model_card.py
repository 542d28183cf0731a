"""Config and model card: complete, parsable, and safe against odd text."""

import json

import pytest

from ctm_fast.checkpoints.model_card import agrees, config_json, model_card

HEADER = {
    "kind": "trajectory",
    "net": {"family": "song", "img_resolution": 8, "img_channels": 1, "label_dim": 10},
    "precond": {"inner": {"name": "edm", "sigma_data": 0.5}},
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "provenance": {"step": 7, "notes": ["head width 64: assumed"]},
}


def front(card: str) -> dict:
    """The metadata block, whose values are JSON and therefore YAML."""
    lines = card.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


def test_card_says_what_a_user_needs():
    card = model_card(HEADER, "me/digits")
    assert front(card)["license"] == "unknown"
    assert front(card)["library_name"] == "ctm_fast"
    for text in (
        "# digits",
        "trajectory: jumps",
        "0.002 to 80",
        'from_pretrained("me/digits")',
        '"step": 7',
        "- head width 64: assumed",
        "kim2024ctm",
        "| classes | 10 |",
    ):
        assert text in card, text
    assert front(model_card(HEADER, "me/digits", "mit"))["license"] == "mit"


def test_the_sampling_lines_are_three_and_compile():
    code = model_card(HEADER, "me/digits").split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert len([line for line in code.splitlines() if line]) == 3


def test_text_cannot_leave_its_place():
    odd = {**HEADER, "provenance": {"data": "x\n```\n---\nlicense: mit", "notes": ["a\n\n# b"]}}
    card = model_card(odd, 'a"b\n---', "none\n---\nevil: 1")
    assert "\nevil" not in card and "\n# b" not in card
    assert set(front(card)) == {"library_name", "license", "tags"}
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_config_agrees_with_its_header():
    text = config_json(HEADER)
    assert json.loads(text)["kind"] == "trajectory"
    assert agrees(text, HEADER) == []
    assert agrees(text, {**HEADER, "kind": "denoiser", "sigma_max": 1.0}) == ["kind", "sigma_max"]
    assert agrees('{"other": 1}', HEADER) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", b"\xff\xfe\xfa", "[" * 100_000])
def test_config_that_is_no_object(text):
    with pytest.raises(ValueError, match=r"config\.json is not"):
        agrees(text, HEADER)
