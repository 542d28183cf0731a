"""The full-size half of `ctm-fast evaluate`: FID and the like, on all processes of torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import data as datasets
from ..checkpoints import opened
from ..data.dataset import ArrayDataset, ImageDataset
from ..evaluation import (
    Extractor,
    ModelFacts,
    Number,
    Reference,
    SampledImages,
    StoredImages,
    evaluate_full,
    extractor_from_file,
    inception,
    read_reference,
    reference_of,
    write_reference,
)
from ..evaluation.arrays import read_arrays
from ..evaluation.weights import file_sha256
from ..sampler import Sampler
from ..trainer.distributed import default_device, raise_together, start
from .sources import opened_data

if TYPE_CHECKING:
    from .evaluate import Evaluate

NUM = 50_000  # images per seed range of a model
BATCH_SIZE = 64
Rows = list[tuple[str, list[Number]]]

# Fields of a card in the order in which they are printed under the table.
_SHOWN = (
    *("samples", "seeds", "labels", "uint8", "resize", "ema_rate", "global_batch"),
    *("training_step", "model", "model_sha256", "batch_size", "processes", "commit"),
)


def run_full_size(args: Evaluate) -> tuple[Rows, bool]:
    """(rows of numbers, whether this process is the one that prints them).

    Raises:
        ValueError: for weights, references, samples or models that are missing or do not fit.
        ImportError: for a metric whose package is not installed.
    """
    world = start()
    device = torch.device(args.device) if world.size == 1 else default_device()
    extractor = extractor_of(args, device)
    size = args.batch_size or BATCH_SIZE
    options: dict[str, Any] = {"batch_size": size, "progress": True}
    if args.samples is not None:
        stored = StoredImages(samples_of(args.samples), args.num)
        facts = ModelFacts(ema_rate=args.ema_rate, global_batch=args.global_batch)
        reference = _reference(args, extractor, stored.dataset.shape, options)
        rows = [(args.samples.name, [stored])]
        return _numbers(rows, args, extractor, reference, facts, options), world.first
    assert args.model is not None
    found = opened(args.model, device=device)
    model = found.denoiser
    facts = model_facts(args, found.provenance, model.notes)
    shape = (model.img_channels, model.img_resolution, model.img_resolution)
    reference = _reference(args, extractor, shape, options)
    num, runs = args.num or NUM, []
    for count in args.counts(model.kind):
        sampler = Sampler(model, count, args.method, args.gamma, batch_size=size)
        firsts = [args.seed + k * num for k in range(args.repeats)]
        ranges = [SampledImages(sampler, num, k, args.uint8, args.labels) for k in firsts]
        runs.append((f"NFE {sampler.nfe}", ranges))
    return _numbers(runs, args, extractor, reference, facts, options), world.first


def write_reference_file(args: Evaluate) -> None:
    """Make the statistics file of --reference-from; the first process writes it.

    Raises:
        ValueError: for data or weights that are missing or cannot be used.
    """
    assert args.reference_from is not None and args.reference_out is not None
    if args.reference_out.suffix != ".npz":
        raise ValueError(f"--reference-out must end in .npz, got {args.reference_out.name!r}")
    world = start()
    device = torch.device(args.device) if world.size == 1 else default_device()
    images = StoredImages(opened_data(args.reference_from, args.data_options), args.num)
    made = reference_of(
        images,
        extractor_of(args, device),
        features=bool({"kid", "pr"} & set(args.metrics)),
        batch_size=args.batch_size or BATCH_SIZE,
        progress=True,
    )
    error: Exception | None = None
    if world.first:
        try:
            write_reference(args.reference_out, made)
            kept = "" if made.features is None else " and their features"
            print(f"wrote {args.reference_out}: statistics of {len(images)} images{kept}")
        except Exception as caught:
            error = caught
    raise_together(world, error)


def extractor_of(args: Evaluate, device: torch.device) -> Extractor:
    """The extractor that --extractor, --weights, --sha256 and --resize name.

    Raises:
        ValueError: as `inception` and `extractor_from_file`, or for options of the other one.
    """
    if args.extractor == "inception":
        if args.resize is not None:
            raise ValueError("Inception resizes by itself; leave out --resize")
        return inception(args.weights, args.sha256, device)
    if args.weights is not None:
        raise ValueError(f"--weights is for --extractor inception, not {args.extractor!r}")
    return extractor_from_file(args.extractor, args.sha256, args.resize, device)


def samples_of(path: Path) -> ImageDataset:
    """Stored images: an .npz with arr_0 (N, H, W, C) uint8, or anything that `data.open` reads.

    Raises:
        ValueError: for an .npz without such an array, or as `data.open`.
    """
    if path.suffix != ".npz":
        return datasets.open(str(path))
    arrays = read_arrays(path, ("arr_0",))
    if "arr_0" not in arrays or arrays["arr_0"].ndim != 4:
        raise ValueError(f"{path} has no arr_0 (N, H, W, C) of images, as ctm-fast sample writes")
    return ArrayDataset(torch.from_numpy(arrays["arr_0"]).permute(0, 3, 1, 2), name=path.name)


def model_facts(args: Evaluate, provenance: dict[str, Any], notes: tuple[str, ...]) -> ModelFacts:
    """What the model's file says, and the command line where it says nothing."""
    assert args.model is not None
    rate = provenance.get("ema_decay")
    if rate is None and provenance.get("ema_halflife_kimg") is not None:
        rate = f"half-life {provenance['ema_halflife_kimg']:g} thousand images"
    return ModelFacts(
        name=args.model.name,
        sha256=file_sha256(args.model) if args.model.is_file() else None,
        ema_rate=args.ema_rate if rate is None else rate,
        global_batch=provenance.get("global_batch") or args.global_batch,
        step=provenance.get("step"),
        notes=tuple(notes),
    )


def numbers_table(rows: Rows) -> str:
    """Numbers as aligned text, of all seed ranges, and the main lines of their cards."""
    names = [number.name for number in rows[0][1]]
    width = max(18, *(len(name) + 2 for name, _ in rows))
    lines = [f"{'':<{width}}" + "".join(f"{name:>12}" for name in names)]
    for name, numbers in rows:
        cells = "".join(f"{number.value:>12.5g}" for number in numbers)
        lines.append(f"{name:<{width}}{cells}")
        for k in range(len(numbers[0].values) if len(numbers[0].values) > 1 else 0):
            cells = "".join(f"{number.values[k]:>12.5g}" for number in numbers)
            lines.append(f"{'  seeds ' + (numbers[0].card.seeds or ('',))[k]:<{width}}{cells}")
    first = rows[0][1][0].card
    card = first.to_json()
    lines += ["", *(f"{key}: {_shown(card[key])}" for key in _SHOWN)]
    lines.append(f"extractor: {first.extractor['name']}, SHA-256 {first.extractor['sha256']}")
    against = next((n.card.reference for n in rows[0][1] if n.card.reference is not None), None)
    if against is not None:
        lines.append(f"reference: {against.get('file') or against.get('data')}")
    notes = [note for _, numbers in rows for number in numbers for note in number.card.notes]
    return "\n".join([*lines, *(f"note: {note}" for note in dict.fromkeys(notes))])


def _numbers(
    rows: list[tuple[str, list[Any]]],
    args: Evaluate,
    extractor: Extractor,
    reference: Reference | None,
    facts: ModelFacts,
    options: dict[str, Any],
) -> Rows:
    return [
        (name, evaluate_full(runs, extractor, reference, args.metrics, about=facts, **options))
        for name, runs in rows
    ]


def _reference(
    args: Evaluate, extractor: Extractor, shape: tuple[int, int, int], options: dict[str, Any]
) -> Reference | None:
    """Statistics of --reference, or else of --data; None where no metric compares."""
    if not set(args.metrics) - {"is"}:
        return None
    if args.reference is not None:
        return read_reference(args.reference)
    dataset = opened_data(args.data, args.data_options)
    if dataset.shape != shape:
        raise ValueError(
            f"--data {args.data} has images {dataset.shape}, the evaluated ones are {shape}: give "
            "--reference FILE or the data that they should look like"
        )
    return reference_of(
        StoredImages(dataset),
        extractor,
        features=bool({"kid", "pr"} & set(args.metrics)),
        **options,
    )


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
