"""Handles are opened once in each process, by whichever thread comes first."""

from __future__ import annotations

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

from ctm_fast.data.handles import Handle

OPENED: list[int] = []


def opener():
    time.sleep(0.01)
    OPENED.append(os.getpid())
    return object()


def test_opened_once_by_many_threads():
    OPENED.clear()
    handle = Handle(opener)
    assert OPENED == []
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: handle(), range(50)))
    assert len(found) == 1 and len(OPENED) == 1


def test_a_pickled_copy_opens_its_own():
    OPENED.clear()
    handle = Handle(opener)
    first = handle()
    copy = pickle.loads(pickle.dumps(handle))
    assert copy() is not first and copy() is copy() and handle() is first
    assert len(OPENED) == 2


def test_a_forked_child_opens_its_own():
    handle = Handle(opener)
    first = handle()
    child = os.fork()
    if child == 0:
        os._exit(0 if handle() is not first and handle() is handle() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert handle() is first
