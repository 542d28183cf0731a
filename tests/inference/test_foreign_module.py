"""What stands in for a foreign module keeps of it."""

import dataclasses

import pytest
import torch
from torch import nn

from ctm_fast.inference.foreign_hosts import ADMNetwork, SongNetwork
from ctm_fast.inference.foreign_module import TAKEN, Foreign, RawNetwork, call_of, unknown
from ctm_fast.models import net_from_config

from ..models.tiny import ADM, SONG


class Original(nn.Module):
    """Has attributes of all sorts."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float16))
        self.number, self.text, self.sizes, self.nothing = 0.5, "ncsn", [1, (2, 3)], None
        self.use_fp16, self._hidden, self.table = True, 1, torch.zeros(3)
        self.dtype, self.inner = torch.float16, nn.Identity()

    def forward(self, x, time, extra=None):
        return x


def test_plain_attributes_are_taken_over():
    made = Foreign(Original().train())
    assert (made.number, made.text, made.sizes, made.nothing) == (0.5, "ncsn", [1, (2, 3)], None)
    assert made.use_fp16 is False and made.host_class == "Original"
    for name in ("weight", "_hidden", "table", "inner"):
        assert not hasattr(made, name)
    assert "in place of Original" in repr(made)


def test_it_stays_in_eval_mode():
    made = ADMNetwork(Original(), net_from_config(ADM).train())
    assert not made.training
    assert made.train() is made and not any(m.training for m in made.modules())


def test_its_dtype_is_that_of_its_images():
    made = ADMNetwork(Original(), net_from_config(ADM))
    assert made.dtype == torch.float16 and made.unet.input_conv.weight.dtype == torch.float32
    assert made.to(torch.float64).dtype == torch.float64
    assert made.device == torch.device("cpu")
    assert not any("like" in name for name in made.state_dict())
    made.move(torch.device("meta"))
    assert made.like.is_meta


def test_answers_have_the_dtype_of_the_images_and_times_are_not_rounded():
    made = SongNetwork(Original(), net_from_config(SONG).bfloat16())
    x, rows = torch.randn(2, 2, 8, 8), torch.eye(3)[:2]
    seen = []
    made.net.map_noise.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert made(x, torch.tensor([1.001, 7]), rows).dtype == torch.float32
    assert made(x.double(), torch.tensor([1, 7]), rows).dtype == torch.float64
    assert [t.dtype for t in seen] == [torch.float32] * 2 and float(seen[0][0]) != 1.0


def test_an_unconditional_network_leaves_out_what_it_does_not_take():
    made = RawNetwork(Original(), net_from_config(dataclasses.replace(ADM, label_dim=0)))
    x, time = torch.randn(1, 2, 8, 8), torch.zeros(1)
    expected = made.answer(x, time)
    assert torch.equal(made.answer(x, time, None, torch.ones(1, 3), torch.ones(1, 9)), expected)


def test_the_base_has_no_network():
    for ask in (lambda: Foreign(Original()).unet, lambda: RawNetwork.calls(None, 1)):
        with pytest.raises(NotImplementedError):
            ask()


def test_an_unknown_module_in_words():
    assert call_of(Original()) == ("x", "time", "extra")
    said = unknown(Original())
    assert said.startswith(f"freeze takes {TAKEN}") and "(x, time, extra)" in said
    assert "1 keys, for example weight" in said
