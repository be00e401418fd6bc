"""What the chains of vectors share: limits of the types, and whole powers."""

from multipoles.compiled.jit import bare_inline

LINKS = 12
"""Last link that the vector functions write; longer chains are written lane by lane."""


@bare_inline
def in_range(number, lanes, greatest):
    """Return a number, in float32 (16 lanes) no greater than the other.

    A damped kernel with a greater parameter has decayed at any distance whose square is a normal
    number, and zero times infinity is none.
    """
    return min(number, greatest) if lanes == 16 else number


@bare_inline
def whole_power(base, exponent, one):
    """Return base^exponent of a vector or a number; `one` is one of its kind."""
    result = one
    rest = int(exponent)
    while rest > 0:
        if rest & 1:
            result = result * base
        rest >>= 1
        if rest > 0:
            base = base * base
    return result


@bare_inline
def is_whole(number):
    """Return whether a power is a whole number that `whole_power` is fit for."""
    return number <= 64.0 and number == int(number)
