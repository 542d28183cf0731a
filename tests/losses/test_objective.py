"""Batches and balances."""

import pytest
import torch

from ctm_fast.losses import Balance, Batch


def batch() -> Batch:
    return Batch(
        torch.arange(6.0).reshape(6, 1, 1, 1), torch.arange(6), {"t": torch.arange(6), "n": 3}
    )


def test_slice_keeps_rows_together() -> None:
    part = batch().slice(2, 5)
    assert len(part) == 3
    assert part.images.flatten().tolist() == part.labels.tolist() == [2, 3, 4]
    assert part.draw["t"].tolist() == [2, 3, 4]
    assert part.draw["n"] == 3


def test_taken_slices_are_the_whole_again() -> None:
    draw = {"noise": torch.randn(5, 2), "step": 3}
    batch = Batch(torch.zeros(5, 1, 2, 2), None, dict(draw))
    parts = [batch.slice(0, 2), batch.slice(2, 5)]
    for part in parts:
        part.draw["twice"] = 2 * part.draw["noise"]
    batch.take(parts)
    assert torch.equal(batch.draw["noise"], draw["noise"]) and batch.draw["step"] == 3
    assert torch.equal(batch.draw["twice"], 2 * draw["noise"])


def test_slice_without_labels() -> None:
    whole = Batch(torch.zeros(4, 1, 1, 1))
    assert whole.slice(0, 2).labels is None


def test_to_moves_every_tensor() -> None:
    moved = batch().to("meta")
    assert {moved.images.device.type, moved.labels.device.type} == {"meta"}
    assert moved.draw["t"].device.type == "meta"
    assert moved.draw["n"] == 3


@pytest.mark.parametrize(
    ("reference", "norm", "expected"), [(1.0, 0.5, 2.0), (1.0, 0.0, 10.0), (0.0, 1.0, 0.1)]
)
def test_balance_is_the_clamped_ratio(reference: float, norm: float, expected: float) -> None:
    balance = Balance(low=0.1, high=10.0, eps=0.0)
    value = balance(torch.tensor(reference), torch.tensor(norm))
    assert value.item() == pytest.approx(expected)


def test_balance_eps_is_added_to_the_denominator() -> None:
    value = Balance()(torch.tensor(1e-4), torch.tensor(0.0))
    assert value.item() == pytest.approx(1.0)


def test_balance_ignores_the_fixed_factors_of_both_losses() -> None:
    norms = torch.tensor(0.5), torch.tensor(0.25)
    plain = Balance()(*norms)
    factored = Balance(reference_factor=2.0, factor=3.0)(2 * norms[0], 3 * norms[1])
    assert factored.item() == pytest.approx(plain.item())


def test_whole_numbers_stay_known_on_the_cpu() -> None:
    index = torch.arange(4)
    draw = {"index": index, "noise": torch.zeros(4, 2), "n": 3}
    batch = Batch(torch.zeros(4, 1, 2, 2), torch.arange(4), draw)
    assert batch.known("index") is index
    assert batch.known("n") is None
    moved = batch.to("meta")
    assert {v.device.type for v in (moved.images, moved.labels, moved.draw["noise"])} == {"meta"}
    assert moved.draw["index"].device.type == "meta"
    assert set(moved.host) == {"index"}
    part = moved.slice(1, 3)
    assert part.known("index").tolist() == [1, 2]
    assert part.known("noise") is None
    assert moved.to("meta").known("index") is index
    # Without the copy nothing is read from a device.
    assert Batch(moved.images, None, moved.draw).known("index") is None


@pytest.mark.gpu
def test_pinned_batches_keep_their_values() -> None:
    batch = Batch(torch.rand(4, 1, 2, 2), torch.arange(4), {"index": torch.arange(4), "n": 3})
    pinned = batch.pinned()
    assert pinned.images.is_pinned()
    assert pinned.draw["n"] == 3
    back = pinned.to("cuda").to("cpu")
    assert torch.equal(back.images, batch.images)
    assert torch.equal(back.known("index"), batch.draw["index"])


def test_reorder_is_in_place_and_keeps_rows_together() -> None:
    whole = batch()
    whole.host = {"t": torch.arange(6)}
    whole.reorder(torch.tensor([5, 3, 1, 0, 2, 4]))
    expected = [5, 3, 1, 0, 2, 4]
    assert whole.images.flatten().tolist() == whole.labels.tolist() == expected
    assert whole.draw["t"].tolist() == whole.host["t"].tolist() == expected
    assert whole.draw["n"] == 3
