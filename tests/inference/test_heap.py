"""Freed memory stays with the process; in processes of their own, since malloc is global."""

import platform
import subprocess
import sys

import pytest

from ctm_fast.inference import heap

FAULTS = """
import resource, runpy, sys
kept = sys.argv[1] == "keep" and runpy.run_path(sys.argv[2])["keep_heap"]()
def work():
    return [b"x" * (6 << 20) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def faults(mode, **environment):
    command = [sys.executable, "-c", FAULTS, mode, heap.__file__]
    clean = {"PATH": "/usr/bin", **environment}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@glibc
def test_memory_is_not_asked_for_again():
    kept, few = faults("keep")
    assert kept
    assert 4 * few < faults("leave")[1]


@glibc
def test_settings_of_the_user_stay():
    assert not faults("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0]


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_heap()
    assert not heap.trim_heap()


HOLES = """
import runpy, sys, torch
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
trim = runpy.run_path(sys.argv[1])["trim_heap"]
torch.empty(1 << 20)  # blocks of 1 MiB come from the heap from now on
blocks = [torch.ones(1 << 18) for _ in range(128)]
del blocks[::2]
before = resident()
print(trim(), before - resident())
"""


@glibc
def test_holes_are_given_back():
    command = [sys.executable, "-c", HOLES, heap.__file__]
    settings = {"PATH": "/usr/bin", "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    trimmed, given = done.stdout.split()
    assert trimmed == "True"
    assert int(given) > 48 << 20
