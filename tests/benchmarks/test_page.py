"""The generated parts of the performance page: made from results, stable, up to date."""

from pathlib import Path

import pytest

from benchmarks import page as module
from benchmarks.__main__ import main
from benchmarks.page import Page
from tests.benchmarks.measured import A100, XEON, outcomes, record, write

EMPTY = """# Speed

By hand.

<!-- begin kernels: python -m benchmarks page -->
old
<!-- end kernels -->

Between.

<!-- begin engine: python -m benchmarks page -->
<!-- end engine -->

After.
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command line for a small page and small results."""
    results = tmp_path / "results"
    results.mkdir()
    write(results / "xeon.jsonl", [record("one", 2.0), record("two", 3.0)])
    write(results / "engine-xeon.jsonl", [*outcomes("step"), *outcomes(batch=1)], XEON)
    write(results / "engine-a100.jsonl", [*outcomes(batch=1), *outcomes(batch=8)], A100)
    (tmp_path / "page.md").write_text(EMPTY)
    return ["page", "--results", str(results), "--page", str(tmp_path / "page.md")]


def test_the_committed_page_is_up_to_date(capsys: pytest.CaptureFixture) -> None:
    assert main(["page", "--check"]) == 0, capsys.readouterr().err


def test_a_page_is_made_and_stays(command: list[str], tmp_path: Path) -> None:
    page, plots = tmp_path / "page.md", tmp_path / "plots"
    assert main([*command, "--check"]) == 1
    assert page.read_text() == EMPTY and not plots.exists()
    assert main(command) == 0
    text = page.read_text()
    names = {path.name for path in plots.iterdir()}
    assert names == {
        "nvidia-a100-models-ratios.svg",
        "nvidia-a100-models-speed.svg",
        "intel-xeon-processor-2-cores-2-threads-kernels.svg",
        "intel-xeon-processor-2-cores-2-threads-models-ratios.svg",
        "intel-xeon-processor-2-cores-2-threads-step-ratios.svg",
    }
    assert all(f"](plots/{name})" in text for name in names)
    assert text.startswith("# Speed\n\nBy hand.\n") and text.endswith("-->\n\nAfter.\n")
    assert "old" not in text and "| jump | forward | 2 | **2.45** |" in text
    headings = [line for line in text.splitlines() if line.startswith("###")]
    assert headings == [
        "### Summary: NVIDIA A100",
        "### Networks, one forward: NVIDIA A100",
        "### Summary: Intel(R) Xeon(R) Processor, 2 cores, 2 threads",
        "### Networks, one forward: Intel(R) Xeon(R) Processor, 2 cores, 2 threads",
        "### Training step: Intel(R) Xeon(R) Processor, 2 cores, 2 threads",
    ]
    images = {path: path.read_bytes() for path in plots.iterdir()}
    assert main([*command, "--check"]) == 0
    assert main(command) == 0
    assert page.read_text() == text
    for path in images:
        path.unlink()
    assert main([*command, "--check"]) == 1
    assert main(command) == 0
    assert {path: path.read_bytes() for path in plots.iterdir()} == images


def test_new_results_and_forgotten_plots_are_noticed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(command) == 0
    (tmp_path / "results" / "engine-a100.jsonl").unlink()
    assert main([*command, "--check"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("out of date: page.md, nvidia-a100-models-ratios.svg")
    assert main(command) == 0
    assert not list((tmp_path / "plots").glob("nvidia*"))
    write(tmp_path / "results" / "xeon.jsonl", [record("one", 2.5)])
    assert main([*command, "--check"]) == 1
    assert "threads-kernels.svg" in capsys.readouterr().err


def test_nothing_measured(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(EMPTY)
    assert Page(results=tmp_path, page=tmp_path / "page.md").run() == 0
    assert (tmp_path / "page.md").read_text().count(module.NOTHING) == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (EMPTY.replace("engine", "other"), r"\['kernels', 'other'\]"),
        (EMPTY.replace("<!-- end engine -->", ""), r"\['kernels'\]"),
        (EMPTY + EMPTY, r"\['engine', 'engine', 'kernels', 'kernels'\]"),
    ],
)
def test_pages_without_their_markers_are_refused(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=names):
        Page(results=tmp_path, page=tmp_path / "page.md").run()


def test_without_matplotlib_nothing_is_written(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def refuse(plot: object) -> bytes:
        raise ImportError("plots need matplotlib")

    monkeypatch.setattr(module, "drawn", refuse)
    assert main(command) == 2
    assert "plots need matplotlib" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == EMPTY
