"""Every way to install the package, each in an environment of its own, without a network."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "LICENSE", "README.md")
FOLDERS = ("ctm_fast", "kernels", "csrc")
HAS_COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
USE = """
import torch, ctm_fast
from ctm_fast.kernels import _native, heun_predict, jump, op
args, _ = heun_predict.example(shape=(2, 3, 5, 7), network=torch.bfloat16, masked=True)
torch.testing.assert_close(heun_predict(*args), heun_predict(*args, backend="reference"))
print(ctm_fast.__file__, op.__file__, ctm_fast.__version__, _native.ABSENT, sep="|")
"""


def run(*command: object, cwd: Path | str = "/", **environment: str) -> str:
    """Output of a command that must succeed; the environment is this one's plus what is given."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CXX")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**variables, "CTM_FAST_CUDA": "off", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-60000:]}")
    return done.stdout


def copy_of_the_checkout(folder: Path) -> Path:
    """What git would hold of the build, without anything that was built."""
    folder.mkdir()
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        unwanted = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    return folder


def environment(folder: Path) -> Path:
    """Python of a new environment that sees what this one has installed, but not this package."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    target = next((folder / "lib").glob("python*/site-packages"))
    # Nested .pth files are not read, so an editable install of this package stays invisible.
    outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (target / "outer.pth").write_text("\n".join(outer) + "\n")
    return folder / "bin" / "python"


def pip(python: Path, *arguments: object, **variables: str) -> str:
    common = ["--no-build-isolation", "--no-deps", "--disable-pip-version-check", "-v"]
    if arguments[0] == "install":
        common.append("--ignore-installed")
    return run(python, "-m", "pip", *arguments, *common, **variables)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel that a machine without a compiler builds, and what the build printed."""
    folder = tmp_path_factory.mktemp("pure")
    source = copy_of_the_checkout(folder / "source")
    output = pip(Path(sys.executable), "wheel", source, "-w", folder, PATH="/nowhere")
    return next(folder.glob("*.whl")), output


def test_editable(tmp_path: Path) -> None:
    source = copy_of_the_checkout(tmp_path / "source")
    python = environment(tmp_path / "environment")
    cuda = "on" if shutil.which("nvcc") and HAS_COMPILER else "off"
    pip(python, "install", "-e", source, CTM_FAST_CUDA=cuda, CTM_FAST_CUDA_ARCHS="90")
    for folder in ("/", source):
        package, op_file, version, absent = run(python, "-c", USE, cwd=folder).strip().split("|")
        assert Path(package) == source / "ctm_fast" / "__init__.py"
        assert Path(op_file) == source / "kernels" / "op.py"
        assert version == "0.1.0"
        assert (absent == "None") == HAS_COMPILER
    assert (python.parent / "ctm-fast").is_file()
    report = run(python, "-m", "ctm_fast.cli.doctor")
    assert ("PTX" in report) == (cuda == "on")


def test_sdist_to_wheel_installed(tmp_path: Path, pure_wheel: tuple[Path, str]) -> None:
    source = copy_of_the_checkout(tmp_path / "source")
    build = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    run(sys.executable, "-c", build, cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    assert {"CMakeLists.txt", "csrc/heun.h", "csrc/heun_cuda.cu", "kernels/op.py"} <= inside

    python = environment(tmp_path / "environment")
    pip(python, "wheel", archive, "-w", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    built = {name for name in names(wheel) if name.endswith(".so")}
    assert len(built) == HAS_COMPILER
    assert names(wheel) - built == names(pure_wheel[0]), "sdist and checkout make other wheels"

    pip(python, "install", wheel)
    package, op_file, _, absent = run(python, "-c", USE).strip().split("|")
    assert Path(package).is_relative_to(tmp_path / "environment")
    assert Path(op_file) == Path(package).parent / "kernels" / "op.py"
    assert (absent == "None") == HAS_COMPILER
    # The checkout shadows the wheel in its root; its kernels must be found there as well.
    _, op_file, _, _ = run(python, "-c", USE, cwd=source).strip().split("|")
    assert Path(op_file) == source / "kernels" / "op.py"


def test_wheel_holds_every_package_and_data_file(pure_wheel: tuple[Path, str]) -> None:
    expected = {
        str(file.relative_to(ROOT)).replace("kernels/", "ctm_fast/kernels/", 1)
        if file.is_relative_to(ROOT / "kernels")
        else str(file.relative_to(ROOT))
        for folder in ("ctm_fast", "kernels")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in (".so", ".pyc")
    }
    assert names(pure_wheel[0]) == expected


def test_no_compiler_gives_pure_python_and_says_so(
    tmp_path: Path, pure_wheel: tuple[Path, str]
) -> None:
    wheel, output = pure_wheel
    said = [line.strip() for line in output.splitlines() if "pure Python" in line]
    assert len(said) == 1 and said[0].startswith("ctm_fast: no C++ compiler on PATH")
    python = environment(tmp_path / "environment")
    pip(python, "install", wheel, PATH="/nowhere")
    *_, absent = run(python, "-c", USE, PATH="/nowhere").strip().split("|")
    assert "was not built" in absent
    report = run(python, "-m", "ctm_fast.cli.doctor", PATH="/nowhere")
    assert "compiler       none on PATH" in report
    assert "native part    none: the native part was not built" in report
    assert "heun_predict native the native part was not built" in " ".join(report.split())


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler on PATH")
def test_a_compile_error_fails_loudly(tmp_path: Path) -> None:
    source = copy_of_the_checkout(tmp_path / "source")
    with (source / "csrc" / "heun.h").open("a") as header:
        header.write("#error broken on purpose\n")
    with pytest.raises(AssertionError, match="broken on purpose"):
        pip(Path(sys.executable), "wheel", source, "-w", tmp_path)
    with pytest.raises(AssertionError, match="choose auto, on or off"):
        pip(Path(sys.executable), "wheel", source, "-w", tmp_path, CTM_FAST_CUDA="maybe")
