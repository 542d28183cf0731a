"""Norms and sums of gradients with gaps."""

import pytest
import torch

from ctm_fast.trainer.sums import added, norm_of, wide


def test_norm():
    assert norm_of([torch.tensor([3.0]), None, torch.tensor([[4.0]])]) == 5
    assert norm_of([torch.ones(4, dtype=torch.float64)]).dtype == torch.float64
    assert norm_of([torch.ones(4, dtype=torch.bfloat16)]).dtype == torch.float32
    assert wide(torch.ones((), dtype=torch.float16)) == torch.float32
    with pytest.raises(ValueError, match="is everything frozen"):
        norm_of([None, None])


def test_added():
    a, b, c, d = (torch.full((2,), float(n)) for n in range(1, 5))
    total = added([a, None, b, None], [c, d, None, None], torch.tensor(10.0))
    assert total[0] is a
    assert [None if t is None else t.tolist() for t in total] == [[31, 31], [40, 40], [2, 2], None]
    (alone,) = added([], [torch.ones(1)], torch.tensor(3.0))
    assert alone.tolist() == [3]
    assert added([None], [None], torch.tensor(3.0)) == [None]
