"""The gate: a wrong variant has no time, a rival may be less accurate but not wrong."""

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.cases import Case, Problem
from benchmarks.eager import eager
from benchmarks.rivals import Unsupported
from benchmarks.session import ABSENT, FAILED, OURS, READY, RIVAL, Session, verdict
from ctm_fast.kernels import OPS

SMALL = {"shape": (2, 6, 5, 7), "groups": 3}


def problem(gradient: bool = False) -> Problem:
    return Problem(Case("group_norm", SMALL, gradient=gradient))


def judged(call, kind: str, gradient: bool = False) -> tuple[str, str]:
    given = problem(gradient)
    same = given.run(given.op.reference)
    exact = given.exactly().run(given.op.reference)
    return verdict(given, kind, given.run(call), same, exact)


def scaled(factor: float):
    return lambda *args, **kwargs: eager(OPS["group_norm"])(*args, **kwargs) * factor


@pytest.mark.parametrize("kind", [OURS, RIVAL])
def test_what_is_right_passes_and_what_is_wrong_fails(kind: str) -> None:
    assert judged(OPS["group_norm"].reference, kind) == (READY, "")
    status, note = judged(scaled(1.01), kind)
    assert status == FAILED and "result 0: largest error" in note


def test_a_rival_may_be_less_accurate_and_says_so() -> None:
    for factor in (1 + 3e-7, 1 + 5e-7, 1 + 1e-6):
        ours, theirs = judged(scaled(factor), OURS), judged(scaled(factor), RIVAL)
        if ours[0] == FAILED and theirs[0] == READY:
            assert "error" in theirs[1]
            return
    pytest.fail("no factor lies between the two rules")


def test_a_wrong_gradient_fails() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy * 1.01

    def call(x, *args, **kwargs):
        return OPS["group_norm"].reference(Wrong.apply(x), *args, **kwargs)

    assert judged(call, OURS)[0] == READY
    status, note = judged(call, OURS, gradient=True)
    assert status == FAILED and "gradient of x" in note


def test_a_gradient_that_is_missing_fails() -> None:
    def call(x, *args, **kwargs):
        return OPS["group_norm"].reference(x, args[0], *(t.detach() for t in args[1:3]), *args[3:])

    status, note = judged(call, RIVAL, gradient=True)
    assert (status, note) == (FAILED, "no gradient of weight")


def test_only_variants_that_passed_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS["group_norm"]
    monkeypatch.setattr(op, "torch", scaled(1.01))
    session = Session()
    states = {s.name: s for s in session.prepare(problem())}
    assert states["torch"].status == FAILED and states["eager"].status == READY
    assert "torch" not in session.round() and "eager" in session.round()
    assert all(host is None for host in session.host().values())


def test_errors_of_ours_fail_and_those_of_rivals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("no such instruction\nat line 7")

    def unable(*args, **kwargs):
        raise Unsupported("6 channels are too few")

    def table(op, device, compiled):
        return [("eager", eager(op)), ("apex", unable), ("liger", broken)]

    monkeypatch.setattr(OPS["group_norm"], "torch", broken)
    monkeypatch.setattr("benchmarks.session.rivals", table)
    states = {s.name: (s.status, s.note) for s in Session().prepare(problem())}
    assert states["torch"] == (FAILED, "RuntimeError: no such instruction")
    assert states["liger"] == (ABSENT, "RuntimeError: no such instruction")
    assert states["apex"] == (ABSENT, "6 channels are too few")


def test_a_failed_variant_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path, tiny: None
) -> None:
    command = ["kernels", "--op", "group_norm", "--rounds", "1", "--no-gradients", "--out"]
    assert main([*command, str(tmp_path / "good.jsonl")]) == 0
    monkeypatch.setattr(OPS["group_norm"], "torch", scaled(1.01))
    assert main([*command, str(tmp_path / "bad.jsonl")]) == 1
    shown = capsys.readouterr().out
    row = next(row for row in shown.splitlines() if "torch" in row and "FAILED" in row)
    assert "largest error" in row and "1 FAILED" in shown


def test_an_order_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    session.prepare(problem())
    orders = {tuple(session.round()) for _ in range(20)}
    assert len(orders) > 1 and len({frozenset(order) for order in orders}) == 1


def test_without_peers_the_reference_is_left_to_ops_that_have_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    op = OPS["group_norm"]
    names = [s.name for s in Session(peers=False).prepare(problem())]
    assert "torch" in names and "reference" not in names and "eager" not in names
    for backend in ("torch", "native", "triton"):
        monkeypatch.setattr(op, backend, None)
    assert [s.name for s in Session(peers=False).prepare(problem())] == ["reference"]
