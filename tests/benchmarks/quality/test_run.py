"""A whole comparison, very small."""

import pytest

from benchmarks.quality.records import REAL, TEACHER
from benchmarks.quality.run import NOISE, Settings, picture_name, run


def settings(**changes) -> Settings:
    options = dict(
        worlds=("mixture",), methods=("CTM", "ECT"), seeds=(0,), budgets={"mixture": 40.0}
    )
    small = {"mixture": {"teacher_steps": 20, "samples": 300, "mapped": 50}}
    return Settings(**{**options, **changes}, options=small)


def test_rows_and_pictures(tmp_path) -> None:
    rows = list(run(settings(pictures=tmp_path), set()))
    names = [row.method for row in rows]
    assert names[:3] == [REAL, TEACHER, "CTM"]
    assert names[-1] == "ECT"
    assert next(name for name in names if name.startswith(NOISE)) == NOISE + "ECT"
    ect = rows[-1]
    assert set(ect.measures) == {"1", "2", "4", "8"}
    assert set(ect.measures["1"]) == {"sliced_wasserstein", "map_error"}
    assert set(ect.measures["8"]) == {"sliced_wasserstein"}
    assert set(rows[2].measures["8"]) == {"sliced_wasserstein", "map_error"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mixture-ctm.png",
        "mixture-ect.png",
    ]
    # What is there is not made again, and the same again where it is made again.
    assert list(run(settings(), {row.key for row in rows})) == []
    (again,) = run(settings(), {row.key for row in rows[:-1]})
    assert again.measures == ect.measures


def test_only_one_seed_is_drawn(tmp_path) -> None:
    list(run(settings(seeds=(1,), methods=("ECT",), pictures=tmp_path), set()))
    assert list(tmp_path.iterdir()) == []


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="unknown methods"):
        list(run(settings(methods=("XYZ",)), set()))


def test_names_of_pictures() -> None:
    assert picture_name("digits", "TCM stage 1, longer") == "digits-tcm-stage-1-longer.png"
    assert picture_name("digits", "CTM + GAN") == "digits-ctm-gan.png"
