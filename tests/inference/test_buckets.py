"""How a batch is cut into batches of allowed sizes."""

import pytest

from ctm_fast.inference.buckets import bucket_sizes, buckets


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (64, (1, 2, 4, 8, 16, 32, 64)), (5, (1, 2, 4, 5))],
)
def test_sizes_double_up_to_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(largest) == sizes


def test_default_sizes() -> None:
    assert bucket_sizes() == (1, 2, 4, 8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    ("n", "sizes", "expected"),
    [
        (0, (4,), []),
        (1, (1, 2, 4), [(1, 1)]),
        (3, (1, 2, 4), [(3, 4)]),
        (4, (4, 2, 1), [(4, 4)]),
        (9, (1, 2, 4), [(4, 4), (4, 4), (1, 1)]),
        (11, (8, 2), [(8, 8), (3, 8)]),
        (5, (3,), [(3, 3), (2, 3)]),
    ],
)
def test_full_batches_first_and_the_rest_is_padded(n, sizes, expected) -> None:
    assert buckets(n, sizes) == expected


def test_every_image_runs_once_in_an_allowed_size() -> None:
    for n in range(300):
        cut = buckets(n)
        assert sum(images for images, _ in cut) == n
        assert all(0 < images <= size and size in bucket_sizes() for images, size in cut)
        assert all(2 * images > size for images, size in cut), "no more than half is padding"


@pytest.mark.parametrize("sizes", [(), (0, 2), (-1,)])
def test_wrong_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        buckets(3, sizes)
    with pytest.raises(ValueError, match="largest bucket is 0"):
        bucket_sizes(0)
