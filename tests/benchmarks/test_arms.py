"""What arms have in common: selection, plain PyTorch, compilation."""

import copy
import os

import pytest
import torch

from benchmarks import networks
from benchmarks.arms import Arm, cast, compiled, fresh_caches, plain_ops, plainly, selected
from ctm_fast.kernels import OPS, group_norm

ARMS = [Arm(name, lambda: None) for name in ("official", "compile", "ours", "edm", "edm compile")]


def names(*only: str, compile: bool = True) -> list[str]:
    return [arm.name for arm in selected(ARMS, only, compile)]


def test_arms_are_selected_by_name_and_by_first_word() -> None:
    assert names() == [arm.name for arm in ARMS]
    assert names("ours", "edm") == ["ours", "edm", "edm compile"]
    assert names("edm compile") == ["edm compile"]
    assert names(compile=False) == ["official", "ours", "edm"]


def test_unknown_arms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no arm is called \['gelu'\]; choose from"):
        names("gelu")
    with pytest.raises(ValueError, match="no arm is called"):
        names("compile", compile=False)


def test_plain_ops_are_pytorch_alone() -> None:
    args = (torch.randn(1, 32, 4, 4), 32, torch.ones(32), torch.zeros(32))
    before = {op: (op.native, op.triton) for op in OPS.values()}
    with pytest.raises(RuntimeError, match="wrong"), plain_ops():
        assert group_norm.choose(*args) in ("torch", "reference")
        raise RuntimeError("wrong")
    assert before == {op: (op.native, op.triton) for op in OPS.values()}
    assert plainly(group_norm.choose)(*args) in ("torch", "reference")


def test_cast_networks_answer_in_their_dtype() -> None:
    net = networks.network("digits")
    x, *others = networks.inputs(net, 2)
    short = cast(copy.deepcopy(net), torch.bfloat16, "cpu")
    assert not any(p.requires_grad for p in short.parameters())
    assert plainly(short)(x.bfloat16(), *others).dtype == torch.bfloat16


def test_compilation_is_asked_for_once_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, config = [], torch._inductor.config

    def stand_in(function, **options):
        asked.append(options)
        return lambda x: (function(x), config.freezing)

    monkeypatch.setattr(torch, "compile", stand_in)
    call = compiled(lambda x: x + 1, "max-autotune", frozen=True, device="cpu")
    # Recompilation is not expected, so only the first call pays for the options.
    assert call(1) == (2, True) and call(2) == (3, False)
    assert asked == [{"mode": "max-autotune", "fullgraph": True, "dynamic": False}]
    assert compiled(lambda x: x, "default", frozen=False, device="cpu")(1) == (1, False)
    assert asked[1]["mode"] is None


@pytest.mark.slow
def test_our_networks_compile_without_a_graph_break() -> None:
    net = networks.network("digits")
    x, *others = networks.inputs(net, 2)
    with torch.inference_mode(), fresh_caches():
        call = compiled(cast(net, torch.float32, "cpu"), "default", frozen=True, device="cpu")
        torch.testing.assert_close(call(x, *others), net(x, *others), rtol=1e-3, atol=1e-4)


def test_caches_of_compilers_are_fresh_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "kept")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with fresh_caches():
        inside = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        assert os.environ["TRITON_CACHE_DIR"] != "kept" and "ctm_fast" in inside
    assert os.environ["TRITON_CACHE_DIR"] == "kept"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
