"""Package layout and the build of `ctm_fast._native` by CMake; metadata is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def missing_toolchain() -> str | None:
    """Why no C++ can be compiled for this Python, or None if it can."""
    named = os.environ.get("CXX", "").split()
    candidates = named[:1] or ["c++", "g++", "clang++", "cl"]
    if not any(shutil.which(candidate) for candidate in candidates):
        return f"no C++ compiler on PATH (looked for {', '.join(candidates)})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h: the development files of this Python are not installed"
    return None


def tool(name: str) -> str | None:
    """Path of a build tool from its Python package, else from PATH."""
    try:
        folder = Path(__import__(name).__file__ or "").parent / "data" / "bin"
    except ImportError:
        return shutil.which(name)
    return shutil.which(name, path=str(folder)) or shutil.which(name)


class CMakeBuild(build_ext):
    """Runs CMake once; the result is one module."""

    def build_extension(self, ext: Extension) -> None:
        reason = missing_toolchain()
        if reason is not None:
            print(f"ctm_fast: {reason}; installing as pure Python", file=sys.stderr, flush=True)
            return
        try:
            import pybind11
        except ImportError:
            pybind11 = None
        cmake, ninja = tool("cmake"), tool("ninja")
        if cmake is None or pybind11 is None:
            raise SystemExit(
                "ctm_fast: the build needs cmake, ninja and pybind11: pip install them"
            )

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCTM_FAST_CUDA={os.environ.get('CTM_FAST_CUDA', 'auto').lower()}",
            f"-DCTM_FAST_CUDA_ARCHS={os.environ.get('CTM_FAST_CUDA_ARCHS', '80;90')}",
        ]
        if ninja is not None:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        # Build folders are named after the Python version; an isolated build leaves stale paths.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--config", "Release"], check=True)


setup(
    packages=[*find_packages(include=["ctm_fast", "ctm_fast.*"]), "ctm_fast.kernels"],
    package_dir={"ctm_fast": "ctm_fast", "ctm_fast.kernels": "kernels"},
    package_data={"": ["py.typed", "NOTICE", "*.npz", "*.json", "*.html", "*.j2"]},
    include_package_data=False,
    # Optional: a build that was left out is no error. A build that fails still is one.
    ext_modules=[Extension("ctm_fast._native", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
