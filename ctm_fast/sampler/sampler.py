"""`Sampler`: the front door, from a model and a seed to images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..inference import graphs as graph_file
from ..inference.buckets import buckets
from .arguments import image_shape, request
from .engine import GRAPH_CALLS, CallByCall, Engine, computing_in, device_of, evaluating, padded
from .guided import Told, modelled
from .jumps import Callback
from .langevin import method_options, resolve_corrector
from .methods import CHURN, SAMPLERS
from .options import (
    check_options,
    resolve_churn,
    resolve_engine,
    resolve_landings,
    resolve_method,
    resolve_phases,
    resolve_renoise,
    resolve_sigmas,
    steps_of,
)
from .seeding import INITIAL, NoiseSampler, SeededNoise, noise_for

Generators = torch.Generator | Sequence[torch.Generator]
RandnLike = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Sampler(Told):
    """Images from noise: `sampler(64, seed=0)`.

    All options are fixed here, checked here and printed by `repr`; the object can be pickled and
    copied. Every image has its own random stream, so neither the batch size nor the position of
    an image in the batch matters to its noise.

    A `Denoiser` with one of our networks is run as a frozen copy, which is made at the first call
    and again when a weight has changed (written through `.data` it looks unchanged: `refresh`);
    the model itself is never touched. On a GPU the whole run of a batch is one CUDA graph:
    captured at the first call of a batch size, replayed later. Batches are then cut and padded to
    the sizes in `buckets`. Methods of more than 80 network calls replay a graph of one call; with
    a callback or a progress bar nothing is captured.
    Threads should not share a sampler: they would share its graphs.

    Any other callable is taken as its keywords say: `Sampler(net, kind="velocity", time="flow",
    shape=(3, 32, 32))`. These keywords (kind, time, prediction, shape, label_dim, labels,
    sigma_min, sigma_max, sigma_data, call) are those of `ctm_fast.wrappers.wrap`, which says what
    they mean; `repr` and the logger "ctm_fast" say what the callable was taken for.

    `Sampler(model, guidance=2.0)` guides by leaving out labels, `Sampler(model, bad=other,
    guidance=2.0)` by a worse model, `Sampler(model, classifier=classifier)` by a classifier's
    gradient; the attribute `model` is then a `wrappers.Guided` or `wrappers.ClassifierGuided`.

    Raises:
        ValueError: for options outside their range, options that the method does not use, levels
            outside the network's range, or a method that this kind of model cannot do.

    Source: CTM, Section 4; Karras et al. 2022, Algorithms 1 and 2; Song et al. 2023, Algorithm 1.
    """

    model: Any  # a Denoiser, anything with its methods and attributes, or a callable
    steps: int | None = None  # >= 1; by default 1 for methods that jump and 18 for ODE methods
    method: str | None = None  # key of SAMPLERS; by default what the model's kind allows
    gamma: float = 0.0  # share of fresh noise per step in [0, 1], method "gamma" only
    sigmas: Any = None  # own noise levels, decreasing, instead of `steps`; read back as a tuple
    landings: Any = None  # levels jumped to, method "jumps" only; read back as a tuple
    rho: float | None = None  # spacing of the Karras levels, > 0; None: 7, or the host's own steps
    S_churn: float | None = None  # amount of EDM churn, method "churn" only; default 40
    S_min: float | None = None  # smallest level that is churned; default 0.05
    S_max: float | None = None  # largest level that is churned; default 50
    S_noise: float | None = None  # scale of the churn noise; default 1.003
    clip: bool = True  # clamp the finished images to [-1, 1]
    dtype: torch.dtype | None = None  # the network computes in it; None: as the model says
    freeze: bool | None = None  # run a frozen copy; None: where the network is one of ours
    graphs: bool | None = None  # CUDA graphs; None: of a frozen copy that can be captured
    buckets: Any = None  # batch sizes of graphs; by default 1, 2, 4, ..., batch_size or 128
    state_dtype: torch.dtype = torch.float32  # dtype of x between network calls and of the images
    latents: str = "scaled"  # what `noise=` is: "scaled" by sigmas[0] already, or "unit"
    batch_size: int | None = None  # images per network call; None: all at once
    progress: bool = False  # show a bar
    edges: Any = None  # levels between the phases, method "phased" only; read back as a tuple
    eta: float | None = None  # "phased": phases end at eta times their edge, in (0, 1]; default 1
    renoise: str | None = None  # "cm_multistep": noise is added to "sigma_min" (default) or "zero"
    corrector_steps: int = 0  # Langevin corrections before every step but the first; see `Langevin`
    snr: float | None = None  # size of a correction, in (0, 1); default 0.16

    def __post_init__(self, *told: Any) -> None:
        self.__dict__.update(model=modelled(self.model, *told))
        check_options(self)
        asked_steps = steps_of(self.steps, self.sigmas)
        method = resolve_method(self.model.kind, self.method, asked_steps, self.gamma)
        edges, eta, asked = resolve_phases(self.model, method, self.edges, self.eta, self.sigmas)
        levels = resolve_sigmas(self.model, method, self.steps, asked, self.rho)
        landings = resolve_landings(self.model, method, levels, self.gamma, self.landings)
        churn = resolve_churn(method, {name: getattr(self, name) for name in CHURN})
        own = tuple(landings) if landings is not None and method == "jumps" else None
        frozen, sizes = resolve_engine(
            self.model, self.freeze, self.graphs, self.buckets, self.batch_size
        )
        steps = len(levels) - 1
        resolved = dict(method=method, steps=steps, sigmas=tuple(levels), landings=own, **churn)
        resolved.update(edges=edges, eta=eta, renoise=resolve_renoise(method, self.renoise))
        told_snr = self.corrector_steps, self.snr
        resolved["snr"] = resolve_corrector(self.model.kind, method, levels, *told_snr)
        self.__dict__.update(resolved, freeze=frozen, buckets=sizes, _engine=self._new_engine())

    def _new_engine(self) -> Engine:
        return Engine(self.dtype, strict=self.graphs is True)

    def __getstate__(self) -> dict[str, Any]:
        """Without the frozen copy and its graphs."""
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _engine=None)
        self.__dict__.update(_engine=self._new_engine())

    def __repr__(self) -> str:
        options = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self)[1:]
        )
        taken = getattr(self.model, "taken", "")
        about = f"{type(self.model).__name__} of kind {self.model.kind!r}"
        return f"Sampler({about}{taken and f' ({taken})'}, {options})"

    def refresh(self) -> None:
        """Forget the frozen copy and its graphs; the next call makes them anew."""
        self.__dict__["_engine"].clear()

    def running(self) -> Any:
        """What is called: the frozen copy, or the model itself in its compute dtype."""
        frozen = self.__dict__["_engine"].frozen
        return frozen(self.model) if self.freeze else computing_in(self.model, self.dtype)

    @property
    def nfe(self) -> int:
        """Network calls per image; calls of a classifier are not counted."""
        assert self.steps is not None
        calls = self.steps
        if self.method in ("heun", "churn"):
            calls = 2 * self.steps - (self.sigmas[-1] == 0)
        calls += self.corrector_steps * (self.steps - 1)
        return calls * getattr(self.model, "network_calls", 1)

    def __call__(
        self,
        num: int | None = None,
        *,
        labels: Tensor | Iterable[int] | int | None = None,
        seed: int | Iterable[int] | None = None,
        noise: Tensor | None = None,
        generator: Generators | None = None,
        randn_like: RandnLike | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (num, C, H, W) in `state_dtype`, in [-1, 1] if `clip`, on the model's device.

        Args:
            num: how many; may be left out where labels, seed, generator or noise say it.
            labels: (num,) integers in [0, model.label_dim), or one for all. A conditional model
                without labels makes the classes 0, 1, 2, ... in turn.
            seed: of the run, by default 0; image k then uses `image_seeds(seed, num)[k]`. Or one
                per image, which makes the same image at every position.
            noise: (num, C, H, W) first state, scaled by sigmas[0] unless `latents="unit"`; by
                default it is drawn, as later noise always is, from seed, generator or randn_like.
            generator: draws all noise instead of seeds. A list of one per image makes the same
                images in any batches; a single one draws the first noise of all images at once
                and later noise batch by batch.
            randn_like: a host's function that draws all noise instead of seeds, called with the
                states of a batch, at first with those of all images.
            callback: called at every step of every batch with a dictionary with the keys x, i,
                sigma, sigma_hat and denoised.

        Raises:
            ValueError: if the arguments disagree about the number of images, for labels or noise
                that do not fit the model, or for more than one of seed, generator and randn_like.
        """
        images = self._run(callback, num, labels, seed, noise, generator, randn_like)
        return images.clamp_(-1, 1) if self.clip else images

    def trajectory(
        self,
        num: int | None = None,
        *,
        labels: Tensor | Iterable[int] | int | None = None,
        seed: int | Iterable[int] | None = None,
        noise: Tensor | None = None,
        generator: Generators | None = None,
        randn_like: RandnLike | None = None,
    ) -> list[tuple[float, Tensor]]:
        """(sigma, x) at the start of every step and at the end, steps + 1 pairs, not clamped.

        x is (num, C, H, W) in `state_dtype`. With churn, sigma and x are those after the noise
        of the step was added, and with corrections x is what they made of it. Arguments as in
        `__call__`.
        """
        steps: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.sigmas[1:]]

        def keep(info: dict[str, Any]) -> None:
            steps[info["i"]].append((info["sigma_hat"], info["x"]))

        final = self._run(keep, num, labels, seed, noise, generator, randn_like)
        path = []
        for batches in steps:
            path.append((float(batches[0][0]), torch.cat([x for _, x in batches])))
        return [*path, (self.sigmas[-1], final)]

    def _run(self, callback: Callback | None, *asked: Any) -> Tensor:
        """Images, not clamped; `asked` are the arguments of `request`."""
        order = request(self.model, *asked)
        engine: Engine = self.__dict__["_engine"]
        model = self.running()
        device = device_of(model, order.noise)
        # Not an inference tensor, so that the images may take part in training.
        images = torch.empty(order.num, *order.shape, dtype=self.state_dtype, device=device)
        start_from, unit = order.noise, self.latents == "unit"
        if start_from is None and order.host is not None:
            start_from, unit = order.host.first(images), True
        if start_from is not None:
            start_from = start_from.to(images) * (self.sigmas[0] if unit else 1)
        per_image = [
            None if t is None else t.to(device, non_blocking=True)
            for t in (order.seeds, start_from, order.labels)
        ]
        watched = callback is not None or self.progress
        captured = self.buckets is not None and graph_file.on_gpu(device) and not watched
        start, host = 0, order.host
        # A graph holds on to its function, and this object to its graphs: no circle.
        me: Any = weakref.proxy(self)
        run = functools.partial(Sampler._images, me, model, callback, None)
        with contextlib.nullcontext() if captured else evaluating(model), torch.inference_mode():
            for count, size in self._cuts(order.num, captured):
                rows = slice(start, start + count)
                batch = [padded(None if t is None else t[rows], size) for t in per_image]
                if captured and self.nfe <= GRAPH_CALLS and host is None:
                    result = engine.pool.run("images", run, *batch)
                else:
                    whose = CallByCall(model, engine.pool) if captured else model
                    draw = None
                    if host is not None:
                        draw = functools.partial(host.sampler, start=start, count=count)
                    result = self._images(whose, callback, draw, *batch)
                images[rows] = result[:count]
                start += count
        return images

    def _cuts(self, num: int, captured: bool) -> list[tuple[int, int]]:
        """(images, batch size) of every network batch."""
        if captured:
            return buckets(num, self.buckets)
        size = self.batch_size or num
        return [(count, count) for count in (min(size, num - i) for i in range(0, num, size))]

    def _images(
        self,
        model: Any,
        callback: Callback | None,
        host: Callable[[Tensor], NoiseSampler] | None,
        seeds: Any,
        x: Tensor | None,
        labels: Tensor | None,
    ) -> Tensor:
        """Images of one batch, not clamped; a function of tensors alone, to be captured.

        Noise is that of `seeds`, or of `host`, which comes with the first state `x`.
        """
        if x is None:
            x = noise_for(seeds, INITIAL, image_shape(self.model), dtype=self.state_dtype)
            x = x * self.sigmas[0]
        if self.freeze:
            x = x.contiguous(memory_format=torch.channels_last)  # as the network answers
        noise = SeededNoise(seeds, self.sigmas, x) if host is None else host(x)
        extra = {} if labels is None else {"labels": labels}
        options = method_options(self, model, self.sigmas, noise, extra)
        return SAMPLERS[str(self.method)](
            model,
            x,
            self.sigmas,
            extra,
            callback,
            not self.progress,
            noise_sampler=noise,
            **options,
        )
