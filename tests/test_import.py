"""`import ctm_fast` is cheap and silent, and every public name resolves."""

import subprocess
import sys
from pathlib import Path

import pytest

import ctm_fast

ROOT = Path(__file__).resolve().parents[1]
WATCHED = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("socket") else None)
import ctm_fast
heavy = {"torch", "triton", "numpy", "ctm_fast._native", "ctm_fast.kernels"} & set(sys.modules)
assert not heavy, f"imported {heavy}"
assert not seen, f"touched the network: {seen}"
assert "Sampler" in dir(ctm_fast) and "losses" in dir(ctm_fast)
import ctm_fast.kernels
assert not seen, f"touched the network: {seen}"
assert not sys.modules["torch"].cuda.is_initialized()
"""


def test_import_touches_neither_torch_nor_triton_nor_the_network() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ctm_fast.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(ctm_fast, name)
    assert value is not None and getattr(ctm_fast, name) is value


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Smapler'"):
        _ = ctm_fast.Smapler


@pytest.mark.parametrize("folder", [ROOT, Path("/")])
def test_kernels_are_found_from_a_checkout(folder: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ctm_fast.kernels as k; "
    code += "print(k.__file__, k.OPS is sys.modules['ctm_fast.kernels.op'].OPS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.stdout.split() == [str(ROOT / "kernels" / "__init__.py"), "True"], done.stderr
