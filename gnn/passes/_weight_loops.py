"""The loop that compares memory with a copy."""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from multipoles.compiled.jit import bare

#: Bytes that are compared at a time: the loop reads whole words.
WORD = 8


@intrinsic
def word_at(typing_context, address, k):
    """Return the k-th word from an address on."""

    def codegen(context, builder, signature, args):
        first = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(first, [args[1]]), align=1)

    return types.uint64(types.int64, types.intp), codegen


@bare
def differ(addresses, words, copy):
    """Return whether words at addresses differ from `copy`, where they follow each other."""
    start = 0
    for i in range(len(addresses)):
        own = copy[start : start + words[i]]
        different = np.uint64(0)
        for k in range(len(own)):
            different |= word_at(addresses[i], k) ^ own[k]
        if different != 0:
            return True
        start += words[i]
    return False
