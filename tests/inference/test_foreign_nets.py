"""What a module may be, and its weights on our layers."""

import dataclasses

import pytest
import torch

from ctm_fast.inference.foreign_nets import Candidate, candidates, rebuilt, said_by, state_of

from ..models.tiny import ADM, SONG
from . import stand_ins as host


def test_what_a_module_says():
    said = {"img_resolution": 8, "eps": 1e-5, "channels_per_head": 32, "num_heads": 1}
    assert said_by(host.UNetModel(ADM)) == said
    assert said_by(host.UNetModel(ADM, told=False)) == {"img_resolution": 8}
    uneven = host.UNetModel(dataclasses.replace(ADM, attn_resolutions=(8, 4)))
    for block in uneven.modules():
        if hasattr(block, "num_heads"):
            block.num_heads = 2
    assert said_by(uneven) == said | {"channels_per_head": 0, "num_heads": 2}
    uneven.middle_block._modules["1"].num_heads = 1
    assert "num_heads" not in said_by(uneven)


def test_one_candidate_where_everything_is_known():
    module = host.SongUNet(SONG)
    (found,) = candidates(module, state_of(module), {})
    assert dataclasses.replace(found.config, dropout=0.2) == SONG and found.about == ""
    assert (found.layout, found.rows) == ("edm", 2)
    module = host.UNetModel(
        dataclasses.replace(ADM, attn_resolutions=(), bottleneck_attention=False)
    )
    assert len(candidates(module, state_of(module), {})) == 1


def test_heads_and_their_order_are_tried_where_nothing_says_them():
    told, module = host.UNetModel(ADM), host.UNetModel(ADM, told=False)
    orders = [c.layout for c in candidates(told, state_of(told), {})]
    assert orders == ["adm", "adm-legacy"]
    found = candidates(module, state_of(module), {})
    heads = [(c.config.channels_per_head, c.config.num_heads) for c in found]
    assert heads[::2] == [(64, 1), (0, 1), (0, 4), (32, 1)] and len(found) == 8
    assert len(candidates(module, state_of(module), {"num_heads": 2, "channels_per_head": 0})) == 2
    assert len(candidates(module, state_of(module), {"attention_order": "new"})) == 4


def test_weights_are_shared_and_answers_equal():
    module = host.UNetModel(ADM, variance=True)
    state = state_of(module)
    net = rebuilt(state, Candidate(ADM, "adm", 4))
    shared = {value.untyped_storage().data_ptr() for value in state.values()}
    outputs = [n for n, p in net.named_parameters() if p.untyped_storage().data_ptr() not in shared]
    assert outputs == ["outputs.8x8.conv.weight", "outputs.8x8.conv.bias"]
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    x, time, classes = torch.randn(2, 2, 8, 8), torch.tensor([3.0, 70.0]), torch.tensor([0, 2])
    expected = module.eval()(x, time, classes)
    assert expected.shape[1] == 4
    torch.testing.assert_close(net(x, time, None, classes), expected, rtol=1e-4, atol=1e-5)


def test_half_precision_becomes_float32_and_float64_stays():
    for dtype, expected in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        state = {name: v.to(dtype) for name, v in state_of(host.SongUNet(SONG)).items()}
        net = rebuilt(state, Candidate(SONG, "edm", 2))
        assert {p.dtype for p in net.parameters()} == {expected}


def test_states_that_do_not_fit():
    module = host.SongUNet(SONG)
    state = state_of(module)
    with pytest.raises(ValueError, match=r"img_channels=5 was asked for; the state has 2"):
        candidates(module, state, {"img_channels": 5})
    del state["map_layer1.bias"]
    with pytest.raises(ValueError, match=r"missing 1 \(map_layer1\.bias\)"):
        rebuilt(state, Candidate(SONG, "edm", 2))
