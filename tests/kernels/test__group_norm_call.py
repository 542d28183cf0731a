"""The group norm's short way: it is the ordinary way bit by bit, or it is not taken."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast.kernels import _group_norm_call, _native, group_norm, join, use_backend
from ctm_fast.kernels._group_norm_call import READY, short_way
from ctm_fast.kernels._group_norm_native import native_group_norm

from .test_group_norm import CASES

pytestmark = pytest.mark.skipif(not READY, reason="torch or the build has no short way")
SETS = ["portable", "avx512", "avx512_bf16"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TAIL = {"shape": (2, 6, 4, 5), "tail": 3, "groups": 3, "pre": True, "residual": 0.7}


@pytest.fixture
def any_set() -> Iterator[None]:
    """Restores the instruction set after a test that chooses one."""
    yield
    for name in SETS:
        _native.module.group_norm_use(name)


def both(results: Any) -> tuple[torch.Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_alike(found: Any, expected: Any) -> None:
    for one, other in zip(both(found), both(expected), strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


def test_every_case_is_the_ordinary_way_bit_by_bit(poisoned_memory: None) -> None:
    for case in CASES:
        args, _ = group_norm.example(**case)
        found = short_way(*args)
        assert (found is None) == (args[0].numel() == 0), f"{case}"
        if found is not None:
            assert_alike(found, native_group_norm(*args))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_tail_is_joined_as_join_does(
    name: str, dtype: torch.dtype, channels_last: bool, any_set: None, poisoned_memory: None
) -> None:
    if not _native.module.group_norm_use(name):
        pytest.skip(f"this CPU or build has no {name}")
    # Groups on the border, rows that no vector divides, several blocks, parts of either alone.
    for head, tail, groups, side in (
        (2, 1, 1, 3),
        (5, 3, 2, 4),
        (20, 28, 8, 9),
        (33, 31, 32, 5),
        (16, 100, 4, 21),
        (170, 22, 32, 7),
    ):
        for residual in (None, 1.0, 0.7):
            case = {"shape": (2, head, side, side), "tail": tail, "groups": groups, "pre": True}
            case |= {"residual": residual, "dtype": dtype, "channels_last": channels_last}
            args, _ = group_norm.example(**case)
            x, *rest, added, factor, more = args
            y, joined = short_way(*args)
            assert torch.equal(joined, join.reference(x, more, added, factor))
            assert_alike((y, joined), (short_way(joined, *rest), joined))
            assert_alike((y, joined), native_group_norm(*args))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(1, 96, 16, 16), (1, 200, 24, 24), (3, 64, 20, 20)])
def test_threads_change_nothing(
    shape: tuple[int, int, int, int], channels_last: bool, threads: None
) -> None:
    case = {"shape": shape, "tail": 56, "groups": 8, "residual": 0.7, "dtype": torch.bfloat16}
    args, _ = group_norm.example(**case, channels_last=channels_last)
    torch.set_num_threads(1)
    expected = short_way(*args)
    for count in (2, 3, 5):
        torch.set_num_threads(count)
        assert_alike(short_way(*args), expected)


def test_rows_of_factors_in_every_form() -> None:
    (x, groups, weight, bias, eps, *_), _ = group_norm.example(shape=(3, 8, 4, 4))
    rows = torch.randn(3, 24, dtype=torch.bfloat16)
    for scale, shift in (
        (rows[:, :8], rows[:, 8:16]),
        (rows[:1, 16:], None),
        (rows[1:2, :8].expand(3, 8), rows[2:, 8:16]),
        (rows[:, :8].half(), rows[:, 8:16].float()),
    ):
        args = (x, groups, torch.nn.Parameter(weight), bias, eps, scale, shift)
        with torch.no_grad():
            assert_alike(short_way(*args), native_group_norm(*args))


class Subclass(torch.Tensor):
    """A tensor that may mean something else than its memory."""


def changed(**values: Any) -> tuple[Any, ...]:
    """Arguments of a call with some of them replaced."""
    args, _ = group_norm.example(**TAIL)
    names = ("x", "groups", "weight", "bias", "eps", "scale", "shift", "pre", "act", "residual")
    named = dict(zip((*names, "factor", "tail"), args))
    for name, value in values.items():
        named[name] = value(named[name]) if callable(value) else value
    return tuple(named.values())


@pytest.mark.parametrize(
    "values",
    [
        {"x": lambda x: x.as_subclass(Subclass)},
        {"x": lambda x: x.to("meta")},
        {"x": lambda x: x.double()},
        {"x": lambda x: x[..., :3]},
        {"x": lambda x: x.contiguous()},
        {"x": lambda x: x[:0]},
        {"x": lambda x: x[0]},
        {"x": None},
        {"x": lambda x: x.clone().requires_grad_()},
        {"tail": lambda t: t.bfloat16()},
        {"tail": lambda t: t[:1]},
        {"tail": lambda t: t[:, :2]},
        {"tail": lambda t: t.contiguous()},
        {"tail": lambda t: t[0]},
        {"tail": lambda t: t.to("meta")},
        {"tail": lambda t: t.requires_grad_()},
        {"tail": 3},
        {"residual": lambda t: t[:, :5]},
        {"residual": lambda t: t.half()},
        {"residual": lambda t: t.contiguous()},
        {"residual": lambda t: t.as_subclass(Subclass)},
        {"weight": lambda w: torch.nn.Parameter(w)},
        {"weight": lambda w: w[:6]},
        {"weight": lambda w: w.double()},
        {"bias": lambda b: torch.stack([b, b], 1)[:, 0]},
        {"bias": None},
        {"scale": lambda s: s[:, :6]},
        {"scale": lambda s: s.t().contiguous().t()},
        {"pre": lambda p: p[0]},
        {"pre": lambda p: torch.cat([p, p])},
        {"pre": lambda p: p.to_sparse()},
        {"groups": 4},
        {"groups": 0},
        {"groups": 2**70},
        {"groups": 3.0},
        {"groups": True},
        {"eps": -1.0},
        {"eps": float("nan")},
        {"eps": torch.tensor(1e-5)},
        {"eps": 2**5000},
        {"act": 1},
        {"factor": "1"},
    ],
)
def test_what_is_unusual_takes_the_ordinary_way(values: dict[str, Any]) -> None:
    args = changed(**values)
    assert short_way(*args) is None

    def outcome(call: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            return type(error)

    found = outcome(lambda *a: group_norm(*a))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_group_norm_call, "READY", False)
        expected = outcome(lambda *a: group_norm(*a))
    if isinstance(expected, type):
        assert found is expected
    elif expected[0].device.type == "cpu":
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nothing_else_is_bypassed() -> None:
    args, _ = group_norm.example(**TAIL)

    class Watch(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            self.seen += "ctm_fast" in str(func)
            return func(*args, **(kwargs or {}))

    with Watch() as watch:
        assert short_way(*args) is None
        group_norm(*args, backend="native")
    assert watch.seen == 2, "the join and the norm"
    with torch.autograd.forward_ad.dual_level():
        assert short_way(*args) is None
    inside = []
    torch.func.vmap(lambda _: inside.append(short_way(*args)) or torch.zeros(1))(torch.zeros(2))
    assert inside == [None]
    with torch.no_grad():
        wanting = changed(x=lambda x: x.clone().requires_grad_())
        assert_alike(short_way(*wanting), native_group_norm(*wanting))
    with torch.inference_mode():
        assert_alike(short_way(*args), native_group_norm(*args))


def test_the_backend_that_was_asked_for_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    args, _ = group_norm.example(**TAIL)
    calls = []
    monkeypatch.setattr(group_norm, "quick", lambda *a: calls.append(a) or ("short",))
    for backend in ("torch", "reference"):
        assert group_norm(*args, backend=backend) != ("short",)
        with use_backend(backend):
            assert group_norm(*args) != ("short",)
            assert group_norm(*args, backend="native") == ("short",)
    assert group_norm(*args) == group_norm(*args, backend="auto") == ("short",)
    assert len(calls) == 4


def test_without_dlpack_there_is_no_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _native.module.learn_tensors(torch.Tensor, torch.nn.Parameter, object())
    assert READY, "a capsule that is none changes nothing"
    assert short_way(*changed()) is not None
    monkeypatch.setattr(_native, "ABSENT", "absent")
    assert not _group_norm_call._learned()


def test_the_compiled_part_counts_its_arguments() -> None:
    assert _native.module.group_norm_call() is False
    assert _native.module.group_norm_call(*[None] * 16) is False
