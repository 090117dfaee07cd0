"""How many threads the BLAS below numpy computes with.

It is one setting for the whole process. OpenBLAS's threads wait for each other in busy loops: when
another device (a simulation, an OpenCL runtime) takes one of their cores, everything slows down
many times over. So the CPU device computes with one thread unless it is told otherwise.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# OpenBLAS as numpy's wheels bring it (two names of theirs), and as others build it.
PREFIXES = ("scipy_openblas_", "openblas_")
SUFFIXES = ("64_", "_64_", "")


def blas_threads() -> int | None:
    """Return the number of threads, or None where numpy has no OpenBLAS of its own."""
    functions = _functions()
    return None if functions is None else int(functions[0]())


def set_blas_threads(count: int) -> None:
    """Set the number of threads, where numpy has an OpenBLAS of its own."""
    functions = _functions()
    if functions is None:
        logger.info("the number of BLAS threads cannot be set: numpy has no OpenBLAS of its own")
    else:
        functions[1](count)


@lru_cache(maxsize=1)
def _functions() -> tuple[Any, Any] | None:
    """Return the functions that read and set the number of threads."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for prefix, suffix in product(PREFIXES, SUFFIXES):
                names = (f"{prefix}get_num_threads{suffix}", f"{prefix}set_num_threads{suffix}")
                if all(hasattr(library, name) for name in names):
                    return getattr(library, names[0]), getattr(library, names[1])
    return None
