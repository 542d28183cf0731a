"""`Wrapped`: dtypes, labels, answers, modes, derivatives, shapes."""

import copy
import pickle
import types

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.sampler import Sampler
from ctm_fast.wrappers import wrap
from ctm_fast.wrappers.wrapped import Wrapped, answer, dense

from .hosts import DATA, HOSTS, IntegerNet, Net, OneHotNet, seeded

X = 2 * torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.1, 1.0, 30.0])


@pytest.mark.parametrize("state", (torch.float32, torch.float64))
@pytest.mark.parametrize("own", (torch.float64, torch.float32, torch.float16, torch.bfloat16))
def test_networks_get_their_own_dtype_and_times_at_least_float32(own, state):
    net = seeded(Net).to(own)
    model = wrap(net, "denoiser", "edm")
    out = model(X.to(state), SIGMA)
    assert out.dtype == state
    exact = own if own == torch.float64 else torch.float32
    assert net.seen == [(own, exact, (3,), True)]
    full = wrap(copy.deepcopy(net).double().eval(), "denoiser", "edm")(X.double(), SIGMA)
    error = (wrap(net.eval(), "denoiser", "edm")(X.to(state), SIGMA) - full).abs().max()
    assert error < {8: 1e-6, 4: 1e-5, 2: 5e-2}[torch.finfo(own).bits // 8]


def test_a_frozen_network_gets_its_original_s_dtype():
    class Frozen(nn.Module):
        def forward(self, x, sigma):
            self.seen = x.dtype
            return x

    net = Frozen()
    net.weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    net.like = torch.empty(0, dtype=torch.float32)
    assert wrap(net, "denoiser")(X.double(), SIGMA).dtype == torch.float64
    assert net.seen == torch.float32


def test_compute_dtype_is_autocast():
    model = wrap(seeded(Net).eval(), "denoiser", dtype=torch.bfloat16)
    plain = wrap(seeded(Net).eval(), "denoiser")
    difference = (model(X, SIGMA) - plain(X, SIGMA)).abs().max()
    assert 0 < difference < 0.1 and model(X, SIGMA).dtype == torch.float32


def test_functions_without_parameters_compute_in_the_state_s_dtype():
    seen = []

    def net(x, t):
        seen.append((x.dtype, t.dtype))
        return x

    for dtype in (torch.float32, torch.float64):
        assert wrap(net, "denoiser")(X.to(dtype), 1.0).dtype == dtype
    assert seen == [(torch.float32,) * 2, (torch.float64,) * 2]


def test_one_hot_and_integer_labels():
    one_hot, integer = seeded(OneHotNet, 5).eval(), seeded(IntegerNet, 5).eval()
    labels = torch.tensor([4, 0, 2])
    first = wrap(one_hot, "denoiser", label_dim=5, labels="onehot")
    second = wrap(integer, "denoiser", label_dim=5)
    images = first(X, SIGMA, labels)
    torch.testing.assert_close(images, second(X, SIGMA, labels))
    assert one_hot.seen[0].dtype == X.dtype and integer.seen[0].dtype == torch.int64
    weights = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(first(X, SIGMA, weights), images)
    assert first(X, SIGMA).shape == X.shape and one_hot.seen[-1] is None
    with pytest.raises(ValueError, match="onehot"):
        second(X, SIGMA, weights)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        first(X, SIGMA, weights[:, :4])
    with pytest.raises(ValueError, match="label_dim="):
        wrap(one_hot, "denoiser")(X, SIGMA, labels)


def test_answers():
    y = torch.zeros(2, 3, 4, 4)
    wide = torch.arange(2 * 6 * 16.0).reshape(2, 6, 4, 4)
    assert answer(y, y) is y and answer((y, 1), y) is y
    assert answer(types.SimpleNamespace(sample=y), y) is y
    assert torch.equal(answer(wide, y), wide[:, :3])
    for wrong, named in ((None, "NoneType"), ((), "tuple"), (y[:1], r"\(1, 3, 4, 4\)")):
        with pytest.raises(ValueError, match=named):
            answer(wrong, y)
    assert dense(wide[:, :3]).is_contiguous()
    last = wide.contiguous(memory_format=torch.channels_last)
    assert dense(last) is last


def test_any_memory_order_of_the_answer_gives_the_same_image():
    def strange(x, t):
        return DATA(x, t).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    expected = DATA(X, SIGMA)
    for net in (strange, lambda x, t: DATA(x, t).contiguous(memory_format=torch.channels_last)):
        for x in (X, X.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(wrap(net, "denoiser")(x, SIGMA), expected)
    eps = wrap(lambda x, t: (x - strange(x, t)) / t[:, None, None, None], "denoiser",
               prediction="epsilon")  # fmt: skip
    torch.testing.assert_close(eps(X, SIGMA), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", (torch.no_grad, torch.inference_mode, torch.enable_grad))
def test_a_trajectory_function_denoises_by_its_derivative(mode):
    model = wrap(HOSTS["flow"].trajectory, "trajectory", "flow")
    with mode():
        images = model(X.double(), SIGMA.double())
        torch.testing.assert_close(images, DATA(X.double(), SIGMA.double()), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            model.score(X.double(), SIGMA.double()), DATA.score(X.double(), SIGMA.double())
        )


def test_a_trajectory_function_without_derivative_says_so():
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

    model = wrap(lambda x, t, s: Cut.apply(HOSTS["edm"].trajectory(x, t, s)), "trajectory")
    assert model.jump(X, SIGMA, SIGMA / 2).shape == X.shape
    with pytest.raises(ValueError, match="cannot be differentiated"):
        model(X, SIGMA)


def test_jumps_of_a_consistency_function_end_at_sigma_min():
    model = wrap(HOSTS["edm"].consistency, "consistency")
    torch.testing.assert_close(model.jump(X, SIGMA, 0.002), DATA.jump(X, SIGMA, 0.0))
    with pytest.raises(ValueError, match="sigma_min"):
        model.jump(X, SIGMA, 0.05)
    with pytest.raises(ValueError, match="cannot jump"):
        wrap(HOSTS["edm"].denoiser, "denoiser").jump(X, SIGMA, 0.002)


def test_a_module_is_found_behind_a_method_and_behaves_as_one():
    net = seeded(Net)
    model = wrap(net.body, "denoiser")
    assert isinstance(model, Denoiser) and isinstance(model, Wrapped)
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    assert not model.eval().net.owner.training and net.dropout.training is False
    model.train()
    torch.manual_seed(0)
    (model(X, SIGMA) ** 2).mean().backward()
    assert net.first.weight.grad.abs().max() > 0
    twin = copy.deepcopy(model)
    assert twin.net.net.__self__ is twin.net.owner is not net


def test_what_it_was_taken_for_is_printed_and_kept():
    model = wrap(seeded(Net), "velocity", "flow_matching", shape=(3, 4, 4))
    for part in ("Net as velocity in flow time", "noise at t = 0", "net(x, t)", "(3, 4, 4)"):
        assert part in repr(model) and part in model.notes[0]
    assert model.img_shape == (3, 4, 4) and model.img_channels == 3 and model.img_resolution == 4
    assert model.label_dim == 0 and model.sigma_data == 0.5
    with pytest.raises(ValueError, match="shape="):
        _ = wrap(seeded(Net), "denoiser").img_channels
    assert pickle.loads(pickle.dumps(model)).notes == model.notes


def test_even_steps_of_the_host_s_time():
    flow = wrap(HOSTS["flow"].velocity, "velocity", "flow")
    levels = flow.even_sigmas(4)
    expected = torch.tensor([1e6, 3.0, 1.0, 1 / 3, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(levels, expected, rtol=1e-5, atol=0)
    assert levels[0] == 1e6 and levels[-1] == 1e-6 and levels.dtype == torch.float64
    back = wrap(HOSTS["flow_matching"].velocity, "velocity", "flow_matching")
    torch.testing.assert_close(back.even_sigmas(4), expected, rtol=1e-5, atol=0)
    assert wrap(HOSTS["edm"].denoiser, "denoiser").even_sigmas(4) is None
    assert flow.ode_range == (0.002, 80.0)
    assert wrap(HOSTS["flow"].velocity, "velocity", "flow", sigma_max=300).ode_range[1] == 300


def test_points_instead_of_images():
    model = wrap(lambda x, t: DATA(x[..., None], t)[..., 0], "denoiser", shape=(2,))
    images = Sampler(model, steps=2)(5)
    assert images.shape == (5, 2)
