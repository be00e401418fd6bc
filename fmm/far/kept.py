"""Results of functions, kept for the next call as long as all of them together are not too large.

Operators of a high degree take hundreds of megabytes, those of a low one next to nothing: what
counts is not how many are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

#: Bytes that are kept; more only if the result that was used last is larger.
LIMIT = 1 << 30

P = ParamSpec("P")
R = TypeVar("R")
_results: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.RLock()


def kept(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the results of a function of hashable arguments: arrays, and tuples of such."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        key = function, args, tuple(kwargs.items())
        with _lock:
            if key in _results:
                _results.move_to_end(key)
                found: R = _results[key]
                return found
        result = function(*args, **kwargs)
        with _lock:
            _results[key] = result
            _results.move_to_end(key)
            while len(_results) > 1 and size_of([*_results.values()]) > LIMIT:
                _results.popitem(last=False)
        return result

    return wrapper


def size_of(result: Any) -> int:
    """Return the bytes of all arrays in a result."""
    if isinstance(result, np.ndarray):
        return result.nbytes
    return sum(map(size_of, result)) if isinstance(result, tuple | list) else 0
