"""Where the states of a solve lie."""

import pytest
import torch

from ctm_fast.rng import stream
from ctm_fast.solvers.memory import Memory, laid_out_like
from ctm_fast.solvers.slots import Moves


def images(count=3, layout=torch.contiguous_format):
    return torch.randn(count, 2, 4, 5, generator=stream(count)).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_come_back_channels_last_bit_by_bit(layout):
    x = images(layout=layout)
    memory = Memory(x, torch.bfloat16, None, kept=0, history=1)
    c_in = torch.tensor([0.5, 2.0, 1.5])
    memory.begin(x, None, c_in, None)
    there, scaled, history = memory.read(torch.tensor([2, 0]))
    assert torch.equal(there, x[[2, 0]]) and there.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(scaled, (c_in[[2, 0], None, None, None] * x[[2, 0]]).bfloat16())
    assert history.abs().max() == 0
    end = memory.states(torch.tensor([[1, 0, 2], [0, 0, 0]]))
    assert end.shape == (2, 3, 2, 4, 5) and torch.equal(end[0], x[[1, 0, 2]])
    assert end[0].is_contiguous(memory_format=torch.channels_last)


def test_written_rows_alone_change():
    x = images()
    memory = Memory(x, torch.float32, None, kept=0, history=0)
    memory.begin(x, None, torch.ones(3), None)
    memory.write(torch.tensor([4, 1]), [10 + x[:2], 20 + x[:2]])
    state, scaled = memory.read(torch.arange(6))
    expected = torch.cat([x, torch.zeros_like(x)])
    expected[4], expected[1] = 10 + x[0], 10 + x[1]
    assert torch.equal(state, expected) and torch.equal(scaled[4], 20 + x[0])


def test_fewer_images_and_rows_of_choice():
    x = images(4)
    memory = Memory(x, torch.float32, None, kept=1, history=0)
    assert memory.parts[0].shape == (Moves.scratch(4, 1) + 1, 40) and memory.capacity == 4
    memory.begin(x[:2], torch.tensor([9, 1]), torch.ones(2), None)
    assert torch.equal(memory.states(torch.tensor([[9, 1]]))[0], x[:2])


def test_points_without_pixels():
    x = torch.randn(3, 2, generator=stream(0))
    memory = Memory(x, torch.float64, None, kept=0, history=0)
    memory.begin(x, None, torch.ones(3), None)
    state, scaled = memory.read(torch.arange(3))
    assert torch.equal(state, x) and scaled.dtype == torch.float64


def test_labels_of_rows():
    x, labels = images(), torch.tensor([7, 8, 9])
    memory = Memory(x, torch.float32, labels, kept=0, history=0)
    memory.begin(x, None, torch.ones(3), labels)
    assert memory.classes(torch.tensor([5, 0, 6])).tolist() == [9, 7, 7]
    weights = torch.eye(3)[:1]
    shared = Memory(x, torch.float32, weights, kept=0, history=0)
    shared.begin(x, None, torch.ones(3), weights)
    assert torch.equal(shared.classes(torch.tensor([5, 0])), weights)
    assert Memory(x, torch.float32, None, kept=0, history=0).classes(labels) is None


def test_layouts():
    x, last = images(), images(layout=torch.channels_last)
    assert laid_out_like(x, images()) is x
    copy = laid_out_like(x.bfloat16(), last)
    assert copy.stride() == last.stride() and torch.equal(copy, x.bfloat16())
