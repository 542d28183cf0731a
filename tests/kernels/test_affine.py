"""Affine layers of all blocks: one product, gathered weights, autocast, errors."""

import copy
import io
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ctm_fast.kernels import affine
from ctm_fast.kernels.affine import example, one_product, pack, reference, stacked
from tests.kernels.contract import gradients, in_float64, tensors
from tests.tolerance import assert_accurate

CASES = [
    {"rows": (8, 12, 8)},
    {"rows": (6, 4), "batch_to": 3, "parts": 2},
    {"rows": (6, 4), "batch": 1, "batch_to": 5},
    {"rows": (6, 4), "batch": 5, "batch_to": 1, "parts": 2},
    {"rows": (4, 2), "batch": 0, "batch_to": 1},
    {"rows": (3,), "batch": 1, "batch_to": 1, "dtype": torch.float64},
    {"rows": (32, 16), "batch": 5, "batch_to": 5, "dtype": torch.bfloat16},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_product_is_accurate_in_every_dtype(case, poisoned_memory):
    """Also where a CPU would not choose it."""
    args, _ = example(**case)
    exact_args, _ = in_float64(args, {})
    found, ours = gradients(one_product, args, {})
    plain, same = gradients(reference, args, {})
    exact, truth = gradients(reference, exact_args, {})
    for triple in zip((*found, *ours), (*plain, *same), (*exact, *truth), strict=True):
        assert_accurate(*triple)


def test_formula():
    (emb, weights, biases, to, weights_to, biases_to, parts), _ = example(
        rows=(6, 4), batch=2, batch_to=2, parts=2, dtype=torch.float64
    )
    pieces = affine(emb, weights, biases, to, weights_to, biases_to, parts)
    assert [tuple(piece.shape) for piece in pieces] == [(2, 3), (2, 3), (2, 2), (2, 2)]
    for i in range(2):
        expected = emb @ weights[i].t() + biases[i] + to @ weights_to[i].t() + biases_to[i]
        torch.testing.assert_close(torch.cat(pieces[2 * i : 2 * i + 2], 1), expected)


def products(profile):
    """Matrix products of a profiled run."""
    names = ("aten::mm", "aten::addmm")
    return sum(event.count for event in profile.key_averages() if event.key in names)


def test_one_product_per_noise_level():
    args, _ = example(rows=(8,) * 20, batch_to=3, dtype=torch.bfloat16)
    leaves = [t.requires_grad_() for t in tensors(args)]
    with torch.profiler.profile() as forward:
        pieces = affine(*args)
    with torch.profiler.profile() as backward:
        torch.autograd.backward(pieces, [torch.ones_like(piece) for piece in pieces])
    assert products(forward) == 2
    assert products(backward) == 4
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("to", [None, 3])
def test_autocast_is_that_of_a_linear_layer(backend, to):
    args, _ = example(rows=(16, 8), batch_to=to, width=64)
    exact_args, _ = in_float64(args, {})

    def layers(*values):
        with torch.autocast("cpu", torch.bfloat16):
            return reference(*values)

    def ours(*values):
        with torch.autocast("cpu", torch.bfloat16):
            return affine(*values, backend=backend)

    found, plain = gradients(ours, args, {}), gradients(layers, args, {})
    exact = gradients(reference, exact_args, {})
    assert all(one.dtype == torch.bfloat16 for one in found[0])
    for triple in zip(chain(*found), chain(*plain), chain(*exact), strict=True):
        assert_accurate(*triple)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = [t.bfloat16() if isinstance(t, torch.Tensor) else t for t in args]
        affine(*rounded, backend=backend)  # an embedding that autocast has rounded already


def frozen(*rows, width=5):
    draw = torch.Generator().manual_seed(0)
    values = (torch.randn(n, width, generator=draw) for n in rows)
    return [nn.Parameter(value, requires_grad=False) for value in values]


def test_packed_weights_are_read_in_place():
    weights = frozen(4, 2, 3)
    before = [weight.clone() for weight in weights]
    assert stacked(weights).data_ptr() != weights[0].data_ptr()
    pack(weights)
    assert all(torch.equal(old, new) for old, new in zip(before, weights))
    whole = stacked(weights)
    assert whole.data_ptr() == weights[0].data_ptr() and torch.equal(whole, torch.cat(before))
    first = stacked(weights[:2])
    assert first.data_ptr() == whole.data_ptr() and torch.equal(first, torch.cat(before[:2]))
    last = stacked(weights[1:])
    assert last.data_ptr() == weights[1].data_ptr() and torch.equal(last, torch.cat(before[1:]))


def change_order(weights):
    return weights[::-1]


def leave_one_out(weights):
    return [weights[0], weights[2]]


def move_one(weights):
    weights[1].data = weights[1].data.clone()
    return weights


def cast(weights):
    return [weight.double() for weight in weights]


def copied(weights):
    return copy.deepcopy(weights)


def transposed(weights):
    weights[0].data = torch.arange(20.0).reshape(5, 4).t()
    return weights


def wanting_a_gradient(weights):
    weights[2].requires_grad_()
    return weights


def neighbours(weights):
    """Tensors that lie side by side, with an end outside the storage of the first."""
    buffer = torch.randn(30)
    first = torch.from_dlpack(buffer[:20].view(4, 5))
    return [first, torch.from_dlpack(buffer[20:].view(2, 5))]


@pytest.mark.parametrize("change", [change_order, leave_one_out, move_one, cast, copied,
                                    transposed, wanting_a_gradient, neighbours])  # fmt: skip
def test_everything_else_is_copied(change):
    weights = frozen(4, 2, 3)
    pack(weights)
    weights = list(change(weights))
    whole = stacked(weights)
    assert torch.equal(whole, torch.cat(weights))
    assert whole.data_ptr() != weights[0].data_ptr()
    assert whole.requires_grad == any(weight.requires_grad for weight in weights)


def test_packing_changes_no_result():
    args, _ = example(rows=(8, 4, 6), batch_to=3, parts=2, dtype=torch.bfloat16)
    expected = affine(*args)
    for weights in (args[1], args[4]):
        pack(weights)
    assert all(torch.equal(a, b) for a, b in zip(affine(*args), expected))
    with torch.no_grad():
        args[1][1].zero_()
    assert torch.equal(affine(*args)[4], expected[4])
    assert not torch.equal(affine(*args)[2], expected[2])


def test_packed_weights_have_forward_derivatives():
    args, _ = example(rows=(8, 4), dtype=torch.float64)
    pack(args[1])
    tangents = [torch.ones_like(weight) for weight in args[1]]
    with torch.autograd.forward_ad.dual_level():
        dual = [torch.autograd.forward_ad.make_dual(w, t) for w, t in zip(args[1], tangents)]
        rows = one_product(args[0], dual, args[2])
        found = [torch.autograd.forward_ad.unpack_dual(row).tangent for row in rows]
    torch.testing.assert_close(found, reference(args[0], tangents, [b * 0 for b in args[2]]))


def test_tensors_without_memory():
    args, _ = example(rows=(8, 4), batch_to=3, dtype=torch.bfloat16, device="meta")
    assert [tuple(piece.shape) for piece in affine(*args)] == [(3, 8), (3, 4)]
    with FakeTensorMode():
        args, _ = example(rows=(8, 4), batch_to=3, dtype=torch.bfloat16)
        assert [tuple(piece.shape) for piece in affine(*args)] == [(3, 8), (3, 4)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_long_weights_on_a_cpu_are_gathered_only_by_packing(dtype, packed):
    args, _ = example(rows=(1024,) * 3, batch=2, width=512, dtype=dtype)
    if packed:
        pack(args[1])
    with torch.profiler.profile() as profile:
        affine(*args)
    assert products(profile) == (1 if packed and dtype == torch.bfloat16 else 3)


def test_torch_save_keeps_packed_weights_together():
    weights = frozen(4, 2, 3)
    pack(weights)
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    loaded = torch.load(file)
    assert stacked(loaded).data_ptr() == loaded[0].data_ptr()


def test_safetensors_stores_packed_weights_once(tmp_path):
    weights = frozen(4, 2, 3)
    expected = [weight.clone() for weight in weights]
    pack(weights)
    file = tmp_path / "weights.safetensors"
    save_file({str(i): weight for i, weight in enumerate(weights)}, file)
    loaded = load_file(file)
    assert all(torch.equal(loaded[str(i)], value) for i, value in enumerate(expected))
    assert file.stat().st_size < 1000


def test_weights_that_are_trained_are_not_packed():
    weights = frozen(4, 2)
    weights[1].requires_grad_()
    with pytest.raises(ValueError, match="freeze them first"):
        pack(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emb": torch.zeros(3)}, r"emb is torch.float32 of shape \(3,\)"),
        ({"emb": torch.zeros(3, 5)}, r"weights\[0\] has shape \(6, 16\); it must be \(rows, 5\)"),
        ({"emb": torch.zeros(3, 16).double()}, "emb is torch.float64; it must be torch.float32"),
        ({"emb": torch.zeros(2, 16)}, "emb_to is torch.float32 of 3 rows"),
        ({"weights": []}, "0 weights and 2 biases"),
        ({"biases": [torch.zeros(6)] * 2}, r"biases\[1\] has shape \(6,\); it must be \(4,\)"),
        ({"biases": [torch.zeros(6)]}, "2 weights and 1 biases"),
        ({"emb_to": None}, "without emb_to"),
        ({"emb_to": torch.zeros(3, 16).double()}, "emb_to is torch.float64"),
        ({"emb_to": torch.zeros(3, 16).long()}, "emb_to is torch.int64"),
        ({"weights_to": []}, "0 weights_to and 2 biases_to"),
        ({"weights_to": [torch.zeros(4, 16)] * 2}, r"weights_to\[0\] .* must be \(6, 16\)"),
        ({"parts": 4}, r"weights\[0\] has 6 rows, not a multiple of 4"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    args, _ = example(rows=(6, 4), batch_to=3, parts=2)
    names = ("emb", "weights", "biases", "emb_to", "weights_to", "biases_to", "parts")
    with pytest.raises(ValueError, match=message):
        affine(**{**dict(zip(names, args)), **change})
