"""Rivals: stand-ins for apex and Liger compute what the op does, or say why they cannot."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from benchmarks.cases import Case, Problem
from benchmarks.rivals import APEX, LIGER, RIVALS, SDPA, Unsupported, only, rivals
from benchmarks.session import READY, RIVAL, verdict
from ctm_fast.kernels import OPS

SMALL = {"shape": (2, 6, 5, 7), "groups": 3, "modulated": False}


class GroupNorm(torch.nn.Module):
    """The public face of apex.contrib.group_norm.GroupNorm."""

    SUPPORTED_GROUPS = frozenset([3])
    SUPPORTED_CHANNELS = frozenset([6])
    made: list["GroupNorm"] = []  # noqa: RUF012

    def __init__(
        self, num_groups, num_channels, eps=1e-5, affine=True, device=None, dtype=None, act=""
    ):
        super().__init__()
        self.num_groups, self.eps, self.act = num_groups, eps, act
        self.weight = torch.nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))
        self.made.append(self)

    def forward(self, input):
        y = F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return F.silu(y) if self.act == "silu" else y


class LigerGroupNormFunction:
    """The public face of Liger's autograd function; three dimensions only."""

    @staticmethod
    def apply(X, weight, bias, num_channels, num_groups, eps):
        assert X.ndim == 3 and X.is_contiguous() and X.shape[1] == num_channels
        return F.group_norm(X, num_groups, weight, bias, eps)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    apex, liger = ModuleType(APEX), ModuleType(LIGER)
    apex.GroupNorm, liger.LigerGroupNormFunction = GroupNorm, LigerGroupNormFunction
    monkeypatch.setitem(sys.modules, APEX, apex)
    monkeypatch.setitem(sys.modules, LIGER, liger)
    GroupNorm.made.clear()


def on_a_gpu(name: str):
    """A rival of group_norm as it would take part on a GPU."""
    return dict(rivals(OPS["group_norm"], "cuda", False))[name]


@pytest.mark.parametrize("more", [{}, {"modulated": True}, {"pre": True}, {"act": False}])
@pytest.mark.parametrize("name", ["apex", "liger"])
def test_stand_ins_agree_with_the_op(name: str, more: dict, installed: None) -> None:
    options = {**SMALL, "channels_last": name == "apex", **more}
    problem = Problem(Case("group_norm", options, gradient=True))
    same = problem.run(problem.op.reference)
    exact = problem.exactly().run(problem.op.reference)
    call = on_a_gpu(name)
    for _ in range(2):
        assert verdict(problem, RIVAL, problem.run(call), same, exact)[0] == READY
    if name == "apex":
        assert len(GroupNorm.made) == 1, "made once, not once per call"
        fused = not options["modulated"] and more != {"act": False}
        assert GroupNorm.made[0].act == ("silu" if fused else "")


@pytest.mark.parametrize("name", ["apex", "liger"])
def test_what_is_not_installed_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (APEX, LIGER):
        monkeypatch.setitem(sys.modules, module, None)
    args, kwargs = OPS["group_norm"].example(**SMALL)
    with pytest.raises(Unsupported, match="cannot be imported"):
        on_a_gpu(name)(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("apex", {"shape": (2, 8, 5, 7), "groups": 2}, "no 8 channels in 2 groups"),
        ("apex", {**SMALL, "channels_last": False}, "needs channels-last"),
        ("liger", SMALL, "needs contiguous"),
    ],
)
def test_calls_they_do_not_support(name: str, options, reason: str, installed: None) -> None:
    args, kwargs = OPS["group_norm"].example(**options)
    with pytest.raises(Unsupported, match=reason):
        on_a_gpu(name)(*args, **kwargs)


def test_every_rival_has_a_name_in_the_list() -> None:
    names = {name for op in OPS.values() for name, _ in rivals(op, "cuda", True)}
    assert names <= set(RIVALS)
    assert "compile-max-autotune" in names and "apex" in names
    for op in OPS.values():
        assert [name for name, _ in rivals(op, "cpu", False)] == ["eager"]


def test_one_sdpa_backend_by_itself() -> None:
    seen = []

    def call(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cuda.math_sdp_enabled())
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return F.scaled_dot_product_attention(x, x, x)

    x = torch.randn(1, 2, 8, 16)
    found = only(SDPBackend.MATH, call)(x)
    assert seen == [True, False]
    torch.testing.assert_close(found, call(x))
    assert len(SDPA) == 4
