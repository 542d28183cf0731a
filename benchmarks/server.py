"""What the process of another revision answers to requests.

Requests are {"do": "open" | "prepare" | "round" | "host", ...}.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import torch

from ctm_fast.kernels import OPS

from .cases import Problem, case_from_json
from .session import ABSENT, Session


class Server:
    """Answers requests with a `Session` of whatever `ctm_fast` this process imports."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            ValueError: for a request that is not one of those above.
        """
        match request.get("do"):
            case "open":
                if request["threads"] is not None:
                    torch.set_num_threads(request["threads"])
                self._session = Session(request["device"], peers=False)
                return {"files": loaded()}
            case "prepare":
                return self._prepared(request)
            case "round":
                return {"seconds": self._opened().round()}
            case "host":
                return {"seconds": self._opened().host()}
        raise ValueError(f"unknown request {request!r}")

    def _prepared(self, request: dict[str, Any]) -> dict[str, Any]:
        session = self._opened()
        session.clear()
        case = case_from_json(request["case"])
        if case.op not in OPS:
            return _absent(f"has no op {case.op}")
        if case.gradient and not OPS[case.op].differentiable:
            return _absent(f"has no gradient of {case.op}")
        try:
            problem = Problem(case)
        except (TypeError, ValueError, AttributeError) as error:
            return _absent(f"does not know this case: {error}")
        states = session.prepare(problem, tuple(request["only"]))
        return {"states": [asdict(state) for state in states]}

    def _opened(self) -> Session:
        if self._session is None:
            raise ValueError("the first request must be 'open'")
        return self._session


def _absent(reason: str) -> dict[str, Any]:
    return {"states": [{"name": "-", "kind": "ours", "status": ABSENT, "note": reason}]}


def loaded() -> list[str]:
    """Files of this package that the process has loaded."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "ctm_fast"]
    return sorted(filter(None, (getattr(module, "__file__", None) for module in modules)))
