"""Student's t on an interval: quantiles against numbers of 40 digits, ends, and order."""

import pytest
import torch

from ctm_fast.student_t import truncated_quantile

SHARES = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64)
# (nu, low, high) -> quantiles, by bisection on the incomplete beta function in 40 digits.
EXACT = {
    (0.01, 0.0, 21.91013317336942): [
        0.00059383576983413339, 0.062975322560270282, 0.99896499866419449, 11.73031679996851,
        21.77325125720313,
    ],
    (1e-4, 2.0, 2.001): [
        2.0000009997503145, 2.0000999775054355, 2.0004999375109331, 2.0008999775024361,
        2.0009989997502728,
    ],
    (3.0, -5.0, 22.0): [
        -4.7828159506062875, -1.5727336765033448, 0.010329962207891644, 1.6443786007392615,
        9.9031000340757216,
    ],
    (300.0, 3.0, 8.0): [
        3.0003140005224127, 3.0329251158299608, 3.2116513388942087, 3.6648058354040308,
        4.7665282127164118,
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_quantiles(case):
    exact = torch.tensor(EXACT[case], dtype=torch.float64)
    torch.testing.assert_close(truncated_quantile(SHARES, *case), exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("nu", [1e-4, 0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize(("low", "high"), [(0.0, 22.0), (-22.0, 1.0), (-300.0, 300.0), (5.0, 9.0)])
def test_ends_order_and_mirror(nu, low, high):
    p = torch.linspace(0, 1, 501, dtype=torch.float64)
    x = truncated_quantile(p, nu, low, high)
    assert bool((x.diff() > 0).all()) and bool((x >= low).all()) and bool((x <= high).all())
    if nu <= 1:  # else the last thousandth may hold no number of float64
        assert x[0] == pytest.approx(low, abs=1e-12) and x[-1] == pytest.approx(high, rel=1e-9)
    mirrored = -truncated_quantile(1 - p, nu, -high, -low)
    torch.testing.assert_close(x[1:-1], mirrored[1:-1], rtol=1e-9, atol=1e-9)


def test_cauchy_is_a_closed_form():
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    ends = torch.tensor([-4.0, 9.0], dtype=torch.float64).atan()
    exact = (ends[0] + p * (ends[1] - ends[0])).tan()
    torch.testing.assert_close(truncated_quantile(p, 1.0, -4.0, 9.0), exact, rtol=1e-12, atol=0)
