# SPDX-License-Identifier: GPL-2.0
"""The kernels that the checks of one run share: each is built once, while other checks go on."""
import concurrent.futures
import threading

# One at a time, as each has all CPUs.
_builder = concurrent.futures.ThreadPoolExecutor(1)
_begun, _lock = {}, threading.Lock()


def build(make):
    """Begin to build a kernel, if nobody has: it will be wanted."""
    with _lock:
        if make not in _begun:
            _begun[make] = _builder.submit(make)
        return _begun[make]


def kernel(make):
    """A kernel, or the Failure of each check that wants one that can't be built."""
    return build(make).result()
