"""What SongUNet and ADMUNet share: layout, dtypes, features, errors."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctm_fast.models import net_from_config
from ctm_fast.models.blocks import settled
from tests.models.tiny import ADM, SONG, inputs, randomised

NCSN = dataclasses.replace(
    SONG,
    embedding="fourier",
    encoder="residual",
    decoder="skip",
    resample_filter=(1, 3, 3, 1),
    channel_mult_noise=2,
)
DDPM = dataclasses.replace(
    ADM,
    resampling="conv",
    conv_padding="after",
    adaptive_scale=False,
    channels_per_head=0,
    eps=1e-6,
    sin_first=True,
    endpoint=True,
)
CONFIGS = {"ddpmpp": SONG, "ncsnpp": NCSN, "adm": ADM, "ddpm": DDPM}
each = pytest.mark.parametrize("name", CONFIGS)


def student(config):
    return dataclasses.replace(config, destination=True)


class LayoutWatch(TorchDispatchMode):
    """Collects image-sized activations that are not channels-last, and layout-changing copies."""

    COPIES = ("aten.clone", "aten.copy_", "aten._to_copy", "aten.contiguous")

    def __init__(self, images):
        super().__init__()
        self.images, self.wrong, self.seen = images, [], 0

    def image_sized(self, value):
        return (
            isinstance(value, torch.Tensor)
            and value.ndim == 4
            and value.shape[:1] == (self.images,)
            and value.shape[1] > 1
            and value.shape[2] == value.shape[3] > 1
        )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = str(function)
        sources = [v for v in tree_leaves((args, kwargs)) if self.image_sized(v)]
        for value in filter(self.image_sized, tree_leaves(out)):
            # Views (transposed, or a part of the channels) move nothing.
            if any(value.data_ptr() == s.data_ptr() for s in sources) and "view" not in name:
                continue
            if name.startswith(("aten.slice", "aten.split", "aten.permute", "aten.transpose")):
                continue
            self.seen += 1
            if not value.is_contiguous(memory_format=torch.channels_last):
                self.wrong.append((name, tuple(value.shape), value.stride()))
            if name.startswith(self.COPIES):
                self.wrong.append((name, tuple(value.shape)))
        return out


@each
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_throughout(name, channels):
    # Seven images: no other dimension has that size.
    config = dataclasses.replace(student(CONFIGS[name]), img_channels=channels)
    net = net_from_config(config)
    x = torch.randn(7, channels, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    level, labels = torch.zeros(7), torch.zeros(7, dtype=torch.int64)
    with LayoutWatch(7) as forward:
        y = net(x, level, level, labels)
    gradient = torch.ones_like(y)
    with LayoutWatch(7) as backward:
        y.backward(gradient)
    assert forward.wrong == [] and backward.wrong == []
    assert forward.seen > 50 and backward.seen > 50
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_layout_watch_notices_a_copy():
    x = torch.randn(7, 3, 8, 8).to(memory_format=torch.channels_last)
    with LayoutWatch(7) as watch:
        x.contiguous()
    assert watch.wrong
    with LayoutWatch(7) as watch:
        torch.nn.functional.group_norm(x.contiguous(), 1)
    assert watch.wrong


@each
def test_weights_are_channels_last_and_stay_so(name):
    net = net_from_config(CONFIGS[name])
    net.load_state_dict({k: v.contiguous() for k, v in net.state_dict().items()})
    for copied in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.double()):
        weights = [p for p in copied.parameters() if p.ndim == 4 and p.shape[2] > 1]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@each
def test_memory_order_of_the_input_does_not_matter(name):
    net, given = randomised(CONFIGS[name]), inputs(CONFIGS[name])
    x, level = given["x"], given["c_noise"]
    other = net(x.to(memory_format=torch.channels_last), level)
    assert torch.allclose(net(x, level), other, rtol=1e-10, atol=1e-12)


@each
def test_a_sample_does_not_depend_on_its_batch(name):
    net, given = randomised(CONFIGS[name]), inputs(CONFIGS[name])
    x, level, labels = given["x"], given["c_noise"], given["classes"]
    whole = net(x, level, labels=labels)
    for i in range(len(x)):
        one = net(x[i : i + 1], level[i : i + 1], labels=labels[i : i + 1])
        assert torch.allclose(one[0], whole[i], rtol=1e-9, atol=1e-10)


@each
def test_one_noise_level_for_the_batch(name):
    net, given = randomised(CONFIGS[name]), inputs(CONFIGS[name])
    x, level = given["x"], given["c_noise"][:1]
    assert torch.allclose(net(x, level), net(x, level.expand(3)), rtol=1e-9, atol=1e-10)


@each
def test_class_numbers_equal_class_weights(name):
    net, given = randomised(CONFIGS[name]), inputs(CONFIGS[name])
    x, level = given["x"], given["c_noise"]
    by_number = net(x, level, labels=given["classes"])
    assert torch.allclose(by_number, net(x, level, labels=given["onehot"]), rtol=1e-10)
    none = net(x, level)
    zeros = net(x, level, labels=torch.zeros(1, 3, dtype=torch.float64))
    assert torch.allclose(none, zeros, rtol=1e-10)
    assert not torch.allclose(none, by_number, rtol=1e-3)


@each
def test_features_are_the_encoder(name):
    config = student(CONFIGS[name])
    net, given = randomised(config), inputs(config)
    calls = []
    for block in net.dec.modules():
        block.register_forward_hook(lambda *_: calls.append(1))
    args = (given["x"], given["c_noise"], given["classes"], given["c_noise_to"])
    features = net.features(*args)
    assert [tuple(f.shape) for f in features] == [
        (3, config.model_channels, 8, 8),
        (3, 2 * config.model_channels, 4, 4),
    ]
    assert calls == []
    kept = {}
    net.enc["4x4"]["block0"].register_forward_hook(lambda m, a, out: kept.update(last=out))
    net(given["x"], given["c_noise"], given["c_noise_to"], given["classes"])
    _, shortcut, branch = kept["last"]
    torch.testing.assert_close(features[-1], settled(shortcut, branch, net.skip_scale))


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision(name, dtype, autocast):
    config = student(CONFIGS[name])
    net, given = randomised(config), inputs(config)
    exact = net(given["x"], given["c_noise"], given["c_noise_to"], given["classes"])
    net.to(torch.float32 if autocast else dtype)
    x, level, to = (given[k].float() for k in ("x", "c_noise", "c_noise_to"))
    x = x if autocast else x.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast and dtype != torch.float32):
        found = net(x.requires_grad_(), level, to, given["classes"])
    # A handful of roundings per layer; Fourier features of c_noise are 100 times more sensitive.
    error = (found.double() - exact).abs().max() / exact.abs().max()
    assert error < (20 if dtype != torch.float32 else 400) * torch.finfo(dtype).eps
    found.sum().backward()
    assert x.grad.isfinite().all()


@each
def test_noise_embedding_is_not_rounded_to_bfloat16(name):
    """bfloat16 cannot tell these two levels apart; the network must."""
    net = randomised(CONFIGS[name]).to(torch.bfloat16)
    level = torch.tensor([1000.0, 1001.0])
    assert level.to(torch.bfloat16).unique().numel() == 1
    a, b = net.embed(level, None, None, None)[0]
    assert (a - b).abs().max() > 0.05


@each
def test_other_image_sizes_work(name):
    net = randomised(CONFIGS[name])
    assert net(torch.zeros(1, 2, 4, 12).double(), torch.zeros(1)).shape == (1, 2, 4, 12)


@each
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 5, 8, 8)}, r"takes \(batch, 2, H, W\)"),
        ({"x": torch.zeros(3, 2, 8)}, r"takes \(batch, 2, H, W\)"),
        ({"x": torch.zeros(3, 2, 8, 7)}, "8x7 pixels; height and width must divide by 2"),
        ({"c_noise": torch.zeros(2)}, r"c_noise has shape \(2,\); need \(3,\) or \(1,\)"),
        ({"c_noise": torch.zeros(())}, r"c_noise has shape \(\)"),
        ({"c_noise_to": torch.zeros(3)}, "no destination embedding"),
        ({"labels": torch.tensor([0, 1, 3])}, r"labels range from 0 to 3; classes are 0\.\.2"),
        ({"labels": torch.tensor([0, -1, 2])}, "labels range from -1"),
        ({"labels": torch.tensor([0, 1])}, r"integer labels have shape \(2,\); need \(3,\)"),
        ({"labels": torch.zeros(3, 2)}, r"float labels have shape \(3, 2\); need \(3, 3\)"),
        ({"augment_labels": torch.zeros(3, 4)}, r"augment_labels have shape \(3, 4\)"),
    ],
)
def test_errors_name_what_is_wrong(name, change, message):
    net = net_from_config(CONFIGS[name])
    given = {"x": torch.zeros(3, 2, 8, 8), "c_noise": torch.zeros(3), **change}
    with pytest.raises(ValueError, match=message):
        net(**given)


@each
def test_labels_without_classes(name):
    net = net_from_config(dataclasses.replace(CONFIGS[name], label_dim=0))
    with pytest.raises(ValueError, match="unconditional"):
        net(torch.zeros(1, 2, 8, 8), torch.zeros(1), labels=torch.tensor([0]))


@each
def test_label_dropout(name):
    config = dataclasses.replace(CONFIGS[name], label_dropout=0.5, dropout=0.0)
    net, given = randomised(config), inputs(config)
    x, level = given["x"][:1].expand(64, -1, -1, -1), given["c_noise"][:1]
    labels = given["classes"][:1].expand(64)
    kept, none = net(x[:1], level, labels=labels[:1]), net(x[:1], level)
    net.train()
    out = net(x, level, labels=labels)
    is_kept = torch.isclose(out, kept, rtol=1e-9).flatten(1).all(1)
    is_none = torch.isclose(out, none, rtol=1e-9).flatten(1).all(1)
    assert (is_kept ^ is_none).all() and is_kept.any() and is_none.any()


@each
def test_attributes(name):
    config = student(CONFIGS[name])
    net = net_from_config(config)
    assert (net.img_channels, net.img_resolution, net.label_dim) == (2, 8, 3)
    assert net.augment_dim == config.augment_dim and net.config is config
    assert net.has_destination
    assert isinstance(net.last_layer, torch.nn.Conv2d)


@each
def test_every_parameter_takes_part(name):
    """A parameter without gradient would stop distributed training."""
    config = student(CONFIGS[name])
    net, given = randomised(config), inputs(config)
    augment = given["augment"] if config.augment_dim else None
    args = (given["x"], given["c_noise"], given["c_noise_to"], given["classes"], augment)
    net(*args).square().sum().backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # A whole group's shift is invisible to a group norm behind it.
    assert idle == []


@each
def test_networks_run_under_torch_export_tracing(name):
    """No data-dependent Python in the forward pass once labels are not looked at."""
    net, given = randomised(CONFIGS[name]), inputs(CONFIGS[name])
    args = (given["x"], given["c_noise"])
    exported = torch.export.export(net, args).module()
    assert torch.allclose(exported(*args), net(*args), rtol=1e-9)
