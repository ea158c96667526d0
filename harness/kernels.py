# SPDX-License-Identifier: GPL-2.0
"""The kernels that the checks of one run share: each is built once, while other checks go on."""
import concurrent.futures
import threading
import time

# One at a time, as each has all CPUs.
_builder = concurrent.futures.ThreadPoolExecutor(1)
_begun, _lock = {}, threading.Lock()
_here = threading.local()


def build(make):
    """Queue the build of a kernel, unless it is queued already."""
    with _lock:
        if make not in _begun:
            _begun[make] = _builder.submit(make)
        return _begun[make]


def kernel(make):
    """A kernel, when it is built. If it can't be built, each check that wants it gets the Failure."""
    start = time.monotonic()
    try:
        return build(make).result()
    finally:
        _here.waited = waited() + time.monotonic() - start


def waited():
    """The seconds for which this thread has waited for kernels."""
    return getattr(_here, "waited", 0)
