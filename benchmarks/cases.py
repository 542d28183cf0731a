"""What is timed: an op on one line of its `bench` table, with its gradient or without."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ctm_fast.kernels import OPS, Op

from .accuracy import in_float64
from .eager import plain

Tensor = torch.Tensor
FORWARD, BOTH = "forward", "forward+backward"


@dataclass(frozen=True)
class Case:
    """One op and one line of its `bench` (CPU) or `bench_gpu` (GPU) table."""

    op: str
    options: dict[str, Any]  # keyword arguments of the op's `example`
    device: str = "cpu"  # or "cuda"
    gradient: bool = False  # forward and backward instead of forward alone

    @property
    def mode(self) -> str:
        """What is timed, in words."""
        return BOTH if self.gradient else FORWARD

    @property
    def words(self) -> str:
        """The options in words; the dtype also where it is the default."""
        default = inspect.signature(OPS[self.op].example).parameters.get("dtype")
        options = dict(self.options)
        if default is not None:
            options.setdefault("dtype", default.default)
        return ", ".join(f"{key} {_in_words(value)}" for key, value in options.items())

    def to_json(self) -> dict[str, Any]:
        """Only what JSON holds; `case_from_json` reads it."""
        return {
            "op": self.op,
            "options": {key: _written(value) for key, value in self.options.items()},
            "device": self.device,
            "gradient": self.gradient,
        }


def case_from_json(fields: dict[str, Any]) -> Case:
    """The case that `Case.to_json` wrote."""
    options = {key: _read(value) for key, value in fields["options"].items()}
    return Case(fields["op"], options, fields["device"], fields["gradient"])


def cases(
    op: str | None = None, device: str = "cpu", substring: str = "", gradients: bool = True
) -> Iterator[Case]:
    """All cases for a device, forward before forward+backward.

    Args:
        op: only this one.
        device: "cpu" or "cuda".
        substring: only cases whose words contain it.
        gradients: whether differentiable ops are also timed with their backward.

    Raises:
        ValueError: for an unknown op.
    """
    if op is not None and op not in OPS:
        raise ValueError(f"unknown op {op!r}; choose from {sorted(OPS)}")
    for name, each in OPS.items():
        if op not in (None, name):
            continue
        for options in each.bench_gpu or each.bench if device == "cuda" else each.bench:
            for gradient in (False, True) if gradients and each.differentiable else (False,):
                case = Case(name, options, device, gradient)
                if substring in case.words:
                    yield case


class Problem:
    """The arguments of one case, made once, and what every variant is asked to do with them.

    Attributes:
        args, kwargs: of one call of the op.
        wanted: by name, the tensors whose gradient is asked for; none if the case is forward only.
    """

    def __init__(self, case: Case) -> None:
        self.op = OPS[case.op]
        self.case = case
        self._set(*self.op.example(device=case.device, **case.options))
        self._output_gradients: list[Tensor] = []

    def _set(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = _names(self.op, args, kwargs)
        leaves, tree = tree_flatten((args, kwargs))
        fixed = plain(self.op).fixed
        self.wanted: dict[str, Tensor] = {}
        for i, name in enumerate(names):
            leaf = leaves[i]
            if not self.case.gradient or not isinstance(leaf, Tensor):
                continue
            if leaf.is_floating_point() and name.split("[")[0] not in fixed:
                leaves[i] = self.wanted[name] = leaf.detach().requires_grad_()
        self.args, self.kwargs = tree_unflatten(leaves, tree)

    @property
    def dtypes(self) -> str:
        """Dtypes of the floating arguments, each once, in order."""
        found = (t.dtype for t in tensors((self.args, self.kwargs)) if t.is_floating_point())
        return ", ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in found))

    def exactly(self) -> Problem:
        """The same problem in float64."""
        copy = object.__new__(Problem)
        copy.op, copy.case = self.op, self.case
        copy._set(*in_float64((self.args, self.kwargs)))
        copy._output_gradients = in_float64(self._output_gradients)
        return copy

    def run(self, call: Callable[..., Any]) -> dict[str, Tensor]:
        """Results and gradients of a call, by name; what `work` times."""
        if not self.case.gradient:
            with torch.no_grad():
                results = tensors(call(*self.args, **self.kwargs))
            return {f"result {i}": t for i, t in enumerate(results)}
        results = tensors(call(*self.args, **self.kwargs))
        gradients = torch.autograd.grad(
            results, list(self.wanted.values()), self.output_gradients(results), allow_unused=True
        )
        named = {f"result {i}": t for i, t in enumerate(results)}
        for name, gradient in zip(self.wanted, gradients):
            if gradient is not None:
                named[f"gradient of {name}"] = gradient
        return named

    def output_gradients(self, results: list[Tensor]) -> list[Tensor]:
        """Gradients of the results, the same ones for every variant; drawn on the first call."""
        if not self._output_gradients:
            generator = torch.Generator().manual_seed(7)
            for t in results:
                drawn = torch.randn(t.shape, generator=generator)
                # Like the result: its dtype, its device and its memory order.
                self._output_gradients.append(torch.empty_like(t).copy_(drawn).detach())
        return self._output_gradients

    def work(self, call: Callable[..., Any]) -> Callable[[], None]:
        """What is timed: one call, with its backward if the case has one; results are dropped."""
        args, kwargs = self.args, self.kwargs
        if not self.case.gradient:

            def forward() -> None:
                with torch.no_grad():
                    call(*args, **kwargs)

            return forward
        inputs = list(self.wanted.values())

        def both() -> None:
            results = tensors(call(*args, **kwargs))
            torch.autograd.grad(results, inputs, self.output_gradients(results), allow_unused=True)

        return both


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a result or of arguments, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def named_tensors(op: Op, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """The tensors of a call by the names of the op's parameters; "name[i]" within a list."""
    leaves = zip(_names(op, args, kwargs), tree_flatten((args, kwargs))[0])
    return {name: leaf for name, leaf in leaves if isinstance(leaf, Tensor)}


def _names(op: Op, args: Any, kwargs: Any) -> list[str]:
    """A name for each leaf of (args, kwargs)."""
    parameters = list(inspect.signature(op.reference).parameters)
    names: list[str] = []
    for name, value in (*zip(parameters, args), *kwargs.items()):
        one = not isinstance(value, (list, tuple, dict))
        count = len(tree_flatten(value)[0])
        names += [name] if one else [f"{name}[{i}]" for i in range(count)]
    return names


def _in_words(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{len(value)} of sum {sum(value)}"
    return str(value).replace("torch.", "")


def _written(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return str(value) if isinstance(value, torch.dtype) else value


def _read(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value.removeprefix("torch."))
    return tuple(map(_read, value)) if isinstance(value, list) else value
