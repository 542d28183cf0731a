"""Alarms of a run that is going wrong: divergence, a lost adversarial game, averages that drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

GENERATOR, DISCRIMINATOR = "gan", "discriminator"  # names of the terms of an adversarial game
CHUNK = 2**22  # numbers compared at once


class Alarmed(RuntimeError):
    """An alarm ended the run, as alarms="stop" asks.

    Attributes:
        step: number of finished steps.
        alarms: what was found, a sentence each.
    """

    def __init__(self, step: int, alarms: Sequence[str], checkpoint: Any = None) -> None:
        self.step, self.alarms = step, tuple(alarms)
        last = f"last checkpoint: {checkpoint}" if checkpoint else "no checkpoint was written"
        super().__init__(f"stopped after step {step}: {'; '.join(alarms)}; {last}")


@dataclass(frozen=True)
class Bounds:
    """What counts as wrong. Every condition has to hold in `lines` log lines in a row."""

    lines: int = 3
    divergence: float = 10.0  # a term's mean loss, as a multiple of its smallest one so far
    drift: float = 1.0  # |average - student| / |student|, while it grows
    win: float = 0.02  # hinge loss below which the discriminator knows almost every image
    stuck: float = 1e-4  # change of the generator's loss from line to line, relative to it or to 1
    gradient: float = 1e-10  # gradient norm below which the generator learns nothing


class Alarms:
    """Looks at log lines, one after the other.

    An alarm is told once, and again after its condition has ceased. What is known follows from the
    lines alone, so a run that continues from its log tells the same.

    - divergence: see `Bounds`; terms whose smallest mean is not positive, and those of an
      adversarial game, are left out;
    - discriminator collapse: the discriminator's hinge loss is almost 0;
    - the generator is stuck: its loss stays the same, or its gradient vanishes;
    - EMA drift: an average is as far from the student as zero weights are, and moves away;
    - an average stays where it is while the student moves.

    Args:
        bounds: what counts as wrong.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.restore(())

    def restore(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Know what follows from the lines of an earlier session, and nothing else."""
        self._best: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._rows: Counter[str] = Counter()
        for entry in entries:
            self.check(entry)

    def check(self, entry: Mapping[str, Any]) -> list[str]:
        """Alarms that this line completes, a sentence each."""
        found = []
        for name, wrong, sentence in self._conditions(entry):
            self._rows[name] = self._rows[name] + 1 if wrong else 0
            if self._rows[name] == self.bounds.lines:
                found.append(f"{name}: {sentence}")
        return found

    def _conditions(self, entry: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
        """(name, whether it holds, sentence) of everything that can be told from a line."""
        losses: Mapping[str, float] = entry.get("loss", {})
        for term, loss in losses.items():
            if term in (GENERATOR, DISCRIMINATOR):
                continue
            best = self._best.get(term, loss)
            self._best[term] = min(best, loss)
            wrong = best > 0 and loss > self.bounds.divergence * best
            factor = loss / best if best > 0 else 0.0
            sentence = f"mean loss {loss:.4g}, {factor:.3g} times its smallest"
            yield f"divergence of {term}", wrong, sentence
        yield from self._game(losses, entry.get("term_grad_norm", {}))
        for i, drift in enumerate(entry.get("ema_drift", ())):
            before = self._last(f"drift {i}", drift)
            wrong = drift > self.bounds.drift and drift > before
            yield f"drift of average {i}", wrong, f"{drift:.3g} times the student's norm away"
        resting = entry.get("ema_at_rest", ())
        for i in range(len(entry.get("ema_drift", ()))):
            sentence = "it stays where it is while the student moves"
            yield f"average {i} at rest", i in resting, sentence

    def _game(
        self, losses: Mapping[str, float], norms: Mapping[str, float]
    ) -> Iterator[tuple[str, bool, str]]:
        if DISCRIMINATOR in losses:
            loss = losses[DISCRIMINATOR]
            yield "discriminator collapse", loss < self.bounds.win, f"its hinge loss is {loss:.3g}"
        if GENERATOR in losses:
            loss, norm = losses[GENERATOR], norms.get(GENERATOR, 1.0)
            before = self._last("generator", loss)
            still = abs(loss - before) <= self.bounds.stuck * max(1.0, abs(loss))
            wrong = still or norm <= self.bounds.gradient
            sentence = f"its loss is {loss:.4g}, before {before:.4g}, its gradient norm {norm:.3g}"
            yield "generator stuck", wrong, sentence

    def _last(self, name: str, value: float) -> float:
        """The value in the line before; infinity in the first."""
        before, self._before[name] = self._before.get(name, float("inf")), value
        return before


class Drift:
    """How far averages are from the student, for the log.

    One read of all weights and one wait for the device per log line.

    Args:
        student: network that is trained.
        averages: of it, with weights in the same order.
    """

    def __init__(self, student: nn.Module, averages: Sequence[nn.Module]) -> None:
        trained = [p.requires_grad for p in student.parameters()]
        models = [student, *averages]
        self._weights = [[p for p, t in zip(m.parameters(), trained) if t] for m in models]
        self._kept: list[Tensor] = []

    def start(self) -> None:
        """Weights move from here."""
        # One weight of each network tells whether it moves: the largest of the last ones.
        self._kept = [own[-1].detach().clone() for own in self._weights if own]

    @torch.no_grad()
    def entry(self) -> dict[str, Any]:
        """ema_drift, |average - student| / |student| of each; ema_at_rest, numbers of those that
        have not moved since the last line though the student has, if there are any."""
        student, *averages = self._weights
        if not averages or not student:
            return {}
        size = _norm(student).clamp(min=torch.finfo(torch.float32).tiny)
        drifts = [_norm(own, student) / size for own in averages]
        moved = [~(own[-1] == kept).all() for own, kept in zip(self._weights, self._kept)]
        numbers = torch.stack([value.double() for value in (*drifts, *moved)]).tolist()
        told, (student_moved, *average_moved) = numbers[: len(drifts)], numbers[len(drifts) :]
        resting = [i for i, moves in enumerate(average_moved) if student_moved and not moves]
        self.start()
        found: dict[str, Any] = {"ema_drift": told}
        return {**found, "ema_at_rest": resting} if resting else found


def _norm(weights: Sequence[Tensor], other: Sequence[Tensor] | None = None) -> Tensor:
    """Norm of weights, or of their difference to others, a few at a time to spare memory."""
    norms: list[Tensor] = []
    for first, last in _chunks([weight.numel() for weight in weights]):
        part = list(weights[first:last])
        if other is not None:
            part = list(torch._foreach_sub(part, list(other[first:last])))
        norms += torch._foreach_norm(part)
    return torch.stack(norms).norm()


def _chunks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of neighbours that have at most CHUNK numbers together, or are alone."""
    cuts, total = [0], 0
    for i, size in enumerate(sizes):
        if i > cuts[-1] and total + size > CHUNK:
            cuts.append(i)
            total = 0
        total += size
    yield from pairwise([*cuts, len(sizes)])
