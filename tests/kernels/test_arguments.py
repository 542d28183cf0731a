"""Broadcasting, layout tests and the random examples that ops share."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ctm_fast.kernels.arguments import (
    Draw,
    autocast_enabled,
    check_state,
    column,
    same_dense_layout,
    unrecorded,
)


def test_column_broadcasts_over_images() -> None:
    x = torch.ones(2, 3, 4, 5)
    assert column(torch.tensor([1.0, 2.0]), x).shape == (2, 1, 1, 1)
    assert (column(torch.tensor([1.0, 2.0]), x) * x)[1].eq(2).all()


def test_same_dense_layout() -> None:
    x = torch.ones(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert same_dense_layout(x, x) and same_dense_layout(last, last)
    assert not same_dense_layout(x, last)
    assert not same_dense_layout(x.transpose(2, 3), x.transpose(2, 3))
    assert not same_dense_layout(x[:1].expand(2, 3, 4, 5), x)
    assert same_dense_layout(torch.ones(2, 3)) and not same_dense_layout(torch.ones(3, 2).t())


def test_a_scalar_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"\(batch, \.\.\.\)"):
        check_state(torch.tensor(1.0))


def test_draws_depend_on_the_seed_alone() -> None:
    one, same, other = (Draw(seed, "cpu") for seed in (3, 3, 4))
    first = one.normal(2, 3, dtype=torch.float32)
    assert torch.equal(first, same.normal(2, 3, dtype=torch.float32))
    assert not torch.equal(first, other.normal(2, 3, dtype=torch.float32))
    assert one.mask(5).dtype == torch.bool


def test_what_watches_a_call() -> None:
    x, weight = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    assert unrecorded((x, None, 3, 1.0))
    assert not unrecorded((x, weight))
    with torch.no_grad():
        assert unrecorded((x, weight))
        with FakeTensorMode() as mode:
            assert not unrecorded((x,))
        assert not unrecorded((mode.from_tensor(x),))
        compiled = torch.compile(lambda v: v + int(unrecorded((v,))), backend="eager")
        assert torch.equal(compiled(x), x)


def test_autocast_is_asked_of_devices_that_have_it() -> None:
    assert not autocast_enabled("cpu") and not autocast_enabled("meta")
    with torch.autocast("cpu"):
        assert autocast_enabled("cpu") and not autocast_enabled("meta")
        assert not autocast_enabled("cuda")
