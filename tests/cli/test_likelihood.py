"""`ctm-fast likelihood`: the table and the JSON file, with the Gaussian beside the model."""

import json
import math

import pytest
import torch

from ctm_fast import data
from ctm_fast.cli import likelihood, main

QUICK = ("--num", "3", "--rtol", "1e-2", "--atol", "1e-2", "--elbo", "2", "--device", "cpu")


def run(model, *words) -> int:
    return main(["likelihood", str(model), *QUICK, *words])


def test_rows_and_numbers_of_a_trajectory_model(student_file, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "bits.json"
    assert run(student_file, "--out", str(out)) == 0
    names = ["model", "model, ELBO", "Gaussian, full covariance"]
    lines = capsys.readouterr().out.splitlines()
    assert [line[:32].strip() for line in lines] == ["", *names]
    content = json.loads(out.read_text())
    assert list(content["rows"]) == names
    model, bound, gaussian = content["rows"].values()
    # Random weights know less than mean and covariance do.
    assert gaussian["bits_per_dim"] < model["bits_per_dim"] < 10
    assert model["nfe"] > 10 and model["passes_backwards"] == 1 and bound["nfe"] == 3
    assert content["card"]["levels"] == 17 and content["card"]["flow"]["rtol"] == 1e-2
    assert content["card"]["images"] == 3 and content["card"]["data"]["name"] == "digits"


@pytest.mark.parametrize("way", ["centred", "published"])
def test_the_gaussian_is_that_of_the_digits(teacher_file, tmp_path, way) -> None:
    """On the scale of grey values from 0 to 17, the unit interval each: the same for both ways."""
    out = tmp_path / "bits.json"
    words = ("--dequantise", way, "--residual", "fixed", "--elbo", "0", "--out", str(out))
    assert run(teacher_file, *words) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["model, residual fixed", "Gaussian, full covariance"]
    digits = data.open("digits")
    values = digits.pixels(torch.arange(len(digits))).double().flatten(1)
    covariance = torch.cov(values.T, correction=0) + torch.eye(64) / 12
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance)) / 64 / math.log(2)
    found = rows["Gaussian, full covariance"]
    assert abs(found["bits_per_dim"] - entropy) < 3 * found["standard_error"] < 0.75


def test_mistakes_give_one_line(student_file, capsys) -> None:
    for words, message in (
        (("--num", "0"), "--num is 0"),
        (("--elbo", "-1"), "--elbo is -1"),
        (("--trace", "full"), "trace is 'full'"),
        (("--dequantise", "uniform"), "dequantise is 'uniform'"),
        (("--residual", "none"), "--residual is 'none'"),
        (("--data", "photo-patches"), "need (batch, *(1, 8, 8))"),
    ):
        assert run(student_file, *words) != 0
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_table_shows_a_dash_for_what_is_not_known() -> None:
    row = {"bits_per_dim": 2.0, "standard_error": None}
    assert likelihood.table({"x": row}).splitlines()[1].split() == ["x", "2.0000", "-", "-"]
    assert likelihood.summary(torch.tensor([2.0])) == row
