"""Guidance by the gradient of a classifier. Dhariwal & Nichol 2021 (ADM), arXiv:2105.05233."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..denoiser import per_sample
from .calling import module_of, weights_dtype
from .group import Group, calls_of, labels_for, level_of
from .vp_classifier import VPClassifier

Classifier = Callable[..., Tensor]
NO_GRAPH = (
    "a classifier's gradient is computed by autograd inside the run, on weights that the sampler "
    "neither copies nor follows, which no CUDA graph may hold"
)


class ClassifierGuided(Group):
    """A model whose score gets weight * grad_x log p(label | x, sigma) added.

    Legend: c is that gradient, t the level of x, s the level jumped to, D the denoised image.

    * Denoised images: D + weight t^2 c. This is exact: it is the denoiser of the distribution
      proportional to p(x) p(label | x)^weight at that level, so ODE samplers converge to its flow.
      With weight = 1 and the true p(label | x, sigma) it is the denoiser given the label, since
      t^2 c = D(x, t | label) - D(x, t).
    * Jumps: G + weight t (t - s) c, which is G(x, t, s) = (s/t) x + (1 - s/t) g with the same term
      weight t^2 c added to g. The model's part of the jump stays exact, the classifier's part is
      one Euler step in sigma: it is right to first order in t - s, and many jumps converge to the
      guided flow. One long jump to s << t moves the image by weight (D(x, t | label) - D(x, t)),
      as classifier-free guidance of a one-step model does; what the classifier would say on the
      way is not seen. For Gaussian classes of variance v and means m the classifier's part of a
      jump is t (t - s) / (v + t^2) times weight (m_label - E[m | x]), and that of the flow, while
      E[m | x] stays as it is, 1 - sqrt((v + s^2) / (v + t^2)) times: alike for s << t and v << t^2.

    No gradient flows through the classifier's part. A frozen copy of the model may be sampled, but
    not as a CUDA graph.

    Args:
        model: a `Denoiser` of any kind, or anything with its methods and attributes. Only a
            conditional one gets the labels too.
        classifier: called as classifier(x, sigma) with the noisy images (batch, C, H, W) and
            their levels (batch,), both in its weights' dtype (sigma in float32 at least); answers
            with logits (batch, classes). A module is registered. See `VPClassifier` for one that
            was trained on VP-scaled images.
        weight: 0 is the model alone, 1 is Bayes' rule; must be finite.
        classes: how many; None for the model's number, or, of an unconditional model, for what
            the classifier answers to one black image.

    Raises:
        ValueError: for a weight that is not finite, or classes that do not fit model or classifier.

    Source: ADM, Algorithm 2 in the form of a score; CTM's code for images of sigma scale.
    """

    def __init__(
        self,
        model: Any,
        classifier: Classifier,
        *,
        weight: float = 1.0,
        classes: int | None = None,
    ) -> None:
        super().__init__((model,))
        if not math.isfinite(weight):
            raise ValueError(f"the classifier's weight is {weight}; it must be finite")
        if not callable(classifier):
            raise ValueError(f"the classifier is {classifier!r}; it must be callable")
        self.weight, self.classifier = float(weight), classifier
        self.owner = None if isinstance(classifier, nn.Module) else module_of(classifier)
        self.sigma_min, self.sigma_max = float(model.sigma_min), float(model.sigma_max)
        self.network_calls = calls_of(model)
        own = int(model.label_dim)
        if classes is not None and (classes < 2 or own not in (0, classes)):
            raise ValueError(
                f"classes is {classes}; need at least 2, and a conditional model's {own}"
            )
        self.classes = classes or own or self._asked()

    def _asked(self) -> int:
        """Classes of the classifier, by one call."""
        modules = list(self.modules())
        modes = [module.training for module in modules]
        tensor = next((t for t in (*self.parameters(), *self.buffers())), torch.zeros(()))
        black = torch.zeros(1, *self.img_shape, device=tensor.device)
        try:
            for module in modules:
                module.training = False
            with torch.no_grad():
                logits = logits_of(self.classifier, black, per_sample(self.sigma_max, black))
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
        return logits.shape[1]

    def of(self, members: Sequence[Any]) -> ClassifierGuided:
        """The same guidance of another model."""
        (model,) = members
        options = {"weight": self.weight, "classes": self.classes}
        return ClassifierGuided(model, self.classifier, **options)  # type: ignore[arg-type]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Weight, number of classes and which classifier."""
        return self.weight, self.classes, id(self.classifier)

    @property
    def label_dim(self) -> int:
        """Number of classes of the classifier."""
        return self.classes

    @property
    def eager(self) -> str:
        """Why it cannot be part of a CUDA graph."""
        return NO_GRAPH

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Guided image, (batch, C, H, W); arguments as of `Denoiser.forward`.

        Of a consistency model, which jumps where others denoise, the guided jump to sigma_min.

        Raises:
            ValueError: without labels, or for a classifier whose logits are not
                (batch, classes) and differentiable.
        """
        (model,) = self.members
        denoised = model(x, level_of(model, sigma, x), labels_for(model, labels))
        end = self.sigma_min if self.kind == "consistency" else 0.0
        return self._moved(denoised, x, sigma, end, labels)

    def jump(
        self,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Guided point at `sigma_to`, (batch, C, H, W); arguments as of `Denoiser.jump`.

        Raises:
            ValueError: as `forward`, and as `Denoiser.jump`.
        """
        (model,) = self.members
        levels = level_of(model, sigma, x), level_of(model, sigma_to, x)
        landed = model.jump(x, *levels, labels_for(model, labels))
        return self._moved(landed, x, sigma, sigma_to, labels)

    def _moved(
        self,
        image: Tensor,
        x: Tensor,
        sigma: Tensor | float,
        sigma_to: Tensor | float,
        labels: Tensor | None,
    ) -> Tensor:
        """image + weight t (t - s) c, where c is the gradient at (x, t)."""
        if labels is None:
            raise ValueError("guidance by a classifier needs labels")
        if self.weight == 0:
            return image
        t, s = per_sample(sigma, x), per_sample(sigma_to, x)
        c = label_gradient(self.classifier, x, t, labels, self.classes)
        return image + (self.weight * t * (t - s)).reshape(-1, *[1] * (x.ndim - 1)) * c

    def extra_repr(self) -> str:
        """Weight, number of classes and kind."""
        return f"weight={self.weight:g}, classes={self.classes}, kind={self.kind}"


def label_gradient(
    classifier: Classifier, x: Tensor, sigma: Tensor, labels: Tensor, classes: int | None = None
) -> Tensor:
    """Gradient of log p(label | x, sigma) at x, shape and dtype of x; also in inference mode.

    Args:
        classifier: as of `ClassifierGuided`.
        x: (batch, C, H, W) noisy images.
        sigma: (batch,) their levels.
        labels: (batch,) int64 classes, or (batch, classes) weights of the classes' log
            probabilities.
        classes: number of logits that the classifier must have; None: any.

    Raises:
        ValueError: for logits of another shape, or that do not depend on x through autograd.
    """
    # Autograd keeps no inference tensors, which is what a sampler's states are: all are copied.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits = logits_of(classifier, x, sigma.clone())
        found = label_log_prob(logits, labels.clone(), classes)
        if not found.requires_grad:
            raise ValueError(
                "the classifier's logits do not depend on x through autograd (does it run under "
                "no_grad?); a gradient is needed"
            )
        return torch.autograd.grad(found.sum(), x)[0]


def label_log_prob(logits: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """log p(label), (batch,) in float32 or float64.

    Args:
        logits: (batch, classes).
        labels: as in `label_gradient`.
        classes: number of logits that there must be; None: any.

    Raises:
        ValueError: for another number of logits.
    """
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"the classifier has {logits.shape[1]} classes; need {classes}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.is_floating_point():
        return (labels.to(logits.dtype) * logits.log_softmax(1)).sum(1)
    # log p = -log(1 + exp(-margin)) keeps its digits, and its gradient, where p is close to 1.
    own = labels[:, None]
    others = logits.scatter(1, own, -math.inf).logsumexp(1)
    return functional.logsigmoid(logits.gather(1, own)[:, 0] - others)


def logits_of(classifier: Classifier, x: Tensor, sigma: Tensor) -> Tensor:
    """The classifier's logits, (batch, classes).

    Raises:
        ValueError: if they have another shape.
    """
    own = None if isinstance(classifier, VPClassifier) else weights_dtype(classifier)
    if own is not None:
        x, sigma = x.to(own), sigma.to(torch.promote_types(own, torch.float32))
    logits = classifier(x, sigma)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        shape = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise ValueError(f"the classifier answered {shape}; need logits ({len(x)}, classes)")
    if logits.shape[1] < 2:
        raise ValueError(f"the classifier has {logits.shape[1]} class; need at least 2")
    return logits
