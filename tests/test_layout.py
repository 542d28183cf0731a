"""Rules about the files themselves: dependency order, mirrored tests, size, who loads what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Bottom first. A module may import its own package and any line above it in this list.
LAYERS = (
    {"kernels", "registry", "rng", "citations", "pickle_machine"},
    {"sigmas"},
    {"inner", "noise_embeddings", "student_t"},
    {"densities", "curricula", "gaps", "precond", "solvers", "timesteps"},
    {"models"},
    {"denoiser"},
    {"wrappers"},
    {"inference"},
    {"losses", "sampler", "merging", "data"},
    {"likelihood"},
    {"checkpoints", "editing", "evaluation", "integrations"},
    {"trainer"},
    {"planning", "presets"},
    {"cli"},
    {"__main__"},
)
# Tests of a whole table, of the repository, or of a helper beside them.
NOT_MIRRORS = (
    "test_readme",
    "test_all_",
    "test_analytic.py",
    "test_import.py",
    "test_layout.py",
    "test_tolerance.py",
)
# Comparisons with tensors of other codebases, beside the test of the file itself.
FOREIGN = "_parity.py"


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def unit(file: Path) -> str:
    """Name in LAYERS of the module or package that holds a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "kernels" else parts[1]


def layer(name: str) -> int:
    return next((i for i, names in enumerate(LAYERS) if name in names), -1)


def imports(file: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names) of every import of a file, at any depth, relative ones made absolute."""
    here = (
        ("ctm_fast", *file.relative_to(ROOT / "ctm_fast").parent.parts)
        if file.is_relative_to(ROOT / "ctm_fast")
        else ("ctm_fast", *file.relative_to(ROOT).parent.parts)
    )
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            names = tuple(alias.name for alias in node.names)
            yield ".".join((*base, *filter(None, [node.module]))), names


def imported_units(file: Path) -> Iterator[str]:
    for module, names in imports(file):
        parts = module.split(".")
        if parts[0] != "ctm_fast":
            continue
        if len(parts) > 1:
            yield parts[1]
        else:
            yield from (name for name in names or ("ctm_fast",) if name != "__version__")


@pytest.mark.parametrize("file", python_files("ctm_fast", "kernels"), ids=relative)
def test_imports_point_downwards(file: Path) -> None:
    if file == ROOT / "ctm_fast" / "__init__.py":
        assert list(imported_units(file)) == [], "the package itself imports nothing"
        return
    own = unit(file)
    assert layer(own) >= 0, f"{own} is in no line of LAYERS"
    for other in imported_units(file):
        below = 0 <= layer(other) < layer(own)
        assert other == own or below, f"{relative(file)} ({own}) imports {other}"


@pytest.mark.parametrize("file", python_files("ctm_fast", "kernels"), ids=relative)
def test_one_file_each_loads_triton_and_the_extension(file: Path) -> None:
    modules = {module.split(".")[0] for module, _ in imports(file)}
    assert "triton" not in modules or file.name == "_triton.py"
    assert "ctm_fast._native" not in file.read_text() or file.name in ("_native.py", "doctor.py")


def mirrored(file: Path) -> Path:
    """The test file of a source file."""
    # The checkout itself may be called ctm_fast.
    package = ROOT / "ctm_fast"
    inside = file.relative_to(package if package in file.parents else ROOT)
    return ROOT / "tests" / inside.parent / f"test_{inside.name}"


def sources() -> list[Path]:
    return [f for f in python_files("ctm_fast", "kernels") if not f.name.startswith("_")]


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_every_file_has_its_test(file: Path) -> None:
    assert mirrored(file).is_file(), f"{relative(mirrored(file))} is missing"


@pytest.mark.parametrize(
    "file",
    [
        f
        for f in python_files("tests")
        if f.name.startswith("test_") and f.parent.name != "packaging"
    ],
    ids=relative,
)
def test_every_test_has_its_file(file: Path) -> None:
    if file.name.startswith(NOT_MIRRORS) or file.name.endswith(FOREIGN):
        return
    inside = file.relative_to(ROOT / "tests")
    name = inside.parent / file.name.removeprefix("test_")
    candidates = [ROOT / "ctm_fast" / name, ROOT / name]
    assert any(c.is_file() for c in candidates), f"{relative(file)} tests no file"


def every_file() -> list[Path]:
    compiled = [f for f in (ROOT / "csrc").iterdir() if f.suffix in (".h", ".cpp", ".cu")]
    folders = ("ctm_fast", "kernels", "tests", "benchmarks")
    return [*python_files(*folders), *compiled, ROOT / "setup.py"]


@pytest.mark.parametrize("file", every_file(), ids=relative)
def test_files_are_short_and_say_what_they_hold(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= 300, f"{relative(file)} has {text.count(chr(10))} lines"
    if file.suffix == ".py" and text.strip():
        assert text.startswith(('"""', 'r"""')), f"{relative(file)} does not begin with a docstring"
