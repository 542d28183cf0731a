"""What the process of another revision answers."""

import json

import pytest

from benchmarks.cases import Case
from benchmarks.server import Server
from benchmarks.session import ABSENT, FAILED, READY
from ctm_fast.kernels import OPS

SMALL = Case("group_norm", {"shape": (2, 6, 5, 7), "groups": 3}, gradient=True)


@pytest.fixture
def server() -> Server:
    opened = Server()
    opened.answer({"do": "open", "device": "cpu", "threads": None})
    return opened


def prepared(server: Server, case: Case) -> list[dict]:
    request = {"do": "prepare", "case": json.loads(json.dumps(case.to_json())), "only": []}
    return server.answer(request)["states"]


def test_a_case_is_judged_and_timed(server: Server) -> None:
    states = prepared(server, SMALL)
    assert {state["status"] for state in states} == {READY}
    assert server.answer({"do": "round"})["seconds"].keys() == {s["name"] for s in states}
    assert set(server.answer({"do": "host"})["seconds"].values()) == {None}


def test_a_wrong_backend_of_that_revision_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = OPS["group_norm"]
    monkeypatch.setattr(op, "torch", lambda *a, **k: op.reference(*a, **k) * 1.01)
    status = {state["name"]: state["status"] for state in prepared(server, SMALL)}
    assert status["torch"] == FAILED
    assert "torch" not in server.answer({"do": "round"})["seconds"]


def test_what_the_revision_lacks_is_absent(server: Server) -> None:
    for case, reason in (
        (Case("softmax", {}), "has no op softmax"),
        (Case("jump", {"sizes": (2, 3)}), "does not know this case"),
        (Case("heun_predict", {"shape": (2, 3)}, gradient=True), "no gradient of heun_predict"),
    ):
        (state,) = prepared(server, case)
        assert state["status"] == ABSENT and reason in state["note"]
        assert server.answer({"do": "round"})["seconds"] == {}


def test_wrong_requests_are_named(server: Server) -> None:
    with pytest.raises(ValueError, match="unknown request"):
        server.answer({"do": "sing"})
    with pytest.raises(ValueError, match="first request must be 'open'"):
        Server().answer({"do": "round"})
