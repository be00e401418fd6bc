"""Interactions of one pair as plain arithmetic, shared by all loops.

The arguments are numbers, or vectors of `multipoles.compiled.simd` that stand for many pairs at
once: the functions use ``+ - * /`` only and compile for both. Names: (x, y, z) is target minus
source; y of a quadrupole is Q r; g_n = (-1)^n B_n is the radial chain with its signs.
"""

from multipoles.compiled.jit import bare_inline


@bare_inline
def square(x, y, z):
    """Return x^2 + y^2 + z^2."""
    return x * x + y * y + z * z


@bare_inline
def charge_field(x, y, z, inverse, charge):
    """Return potential and gradient of a charge under 1/r; `inverse` is 1/r."""
    potential = charge * inverse
    slope = -(potential * inverse) * inverse
    return potential, slope * x, slope * y, slope * z


@bare_inline
def dot(a, b):
    """Return the scalar product of two triples."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@bare_inline
def times(q, v):
    """Return Q v for a symmetric matrix xx, xy, xz, yy, yz, zz."""
    return (
        q[0] * v[0] + q[1] * v[1] + q[2] * v[2],
        q[1] * v[0] + q[3] * v[1] + q[4] * v[2],
        q[2] * v[0] + q[4] * v[1] + q[5] * v[2],
    )


@bare_inline
def site_field(r, g2, potential, s1, s2, v1, v2, q):
    """Return potential, gradient and Hessian r s1 + v1, delta s1 + r r s2 + r v2 + v2 r + 2 g2 Q.

    (Hessian packed xx, xy, xz, yy, yz, zz.)
    """
    half = 0.5 * s2
    a, b, c = half * r[0] + v2[0], half * r[1] + v2[1], half * r[2] + v2[2]
    twice = g2 + g2
    return (
        potential,
        r[0] * s1 + v1[0],
        r[1] * s1 + v1[1],
        r[2] * s1 + v1[2],
        s1 + 2.0 * (r[0] * a) + twice * q[0],
        r[0] * b + a * r[1] + twice * q[1],
        r[0] * c + a * r[2] + twice * q[2],
        s1 + 2.0 * (r[1] * b) + twice * q[3],
        r[1] * c + b * r[2] + twice * q[4],
        s1 + 2.0 * (r[2] * c) + twice * q[5],
    )


@bare_inline
def quadrupole_pair(r, g, c1, d1, q1, c2, d2, q2):
    """Return the interaction of two sites with charge, dipole and quadrupole, from both sides.

    With t = tr Q, y = Q r, sigma = r.y, delta = d.r, the potential of site 2 at site 1 is
    S0 of S_k = g_k c2 + g_{k+1} (t2 - delta2) + g_{k+2} sigma2, and its derivatives follow with
    v_k = -g_k d2 + 2 g_{k+1} y2, since d/dr_a of g_k is r_a g_{k+1}.

    Parameters
    ----------
    r : triple
        Position 1 minus position 2.
    g : six numbers
        g_0 ... g_5.
    c1, d1, q1, c2, d2, q2
        Charges, dipoles, and quadrupoles xx, xy, xz, yy, yz, zz of symmetric matrices.

    Returns
    -------
    gradient : triple
        dE/dr.
    field1, field2 : ten each
        Potential, gradient and Hessian at site 1 and at site 2.
    """
    g0, g1, g2, g3, g4, g5 = g
    y1, y2 = times(q1, r), times(q2, r)
    delta1, delta2 = dot(d1, r), dot(d2, r)
    sigma1, sigma2 = dot(y1, r), dot(y2, r)
    e1 = q1[0] + q1[3] + q1[5] + delta1
    e2 = q2[0] + q2[3] + q2[5] - delta2
    s0 = g0 * c2 + g1 * e2 + g2 * sigma2
    s1 = g1 * c2 + g2 * e2 + g3 * sigma2
    s2 = g2 * c2 + g3 * e2 + g4 * sigma2
    s3 = g3 * c2 + g4 * e2 + g5 * sigma2
    o0 = g0 * c1 + g1 * e1 + g2 * sigma1
    o1 = g1 * c1 + g2 * e1 + g3 * sigma1
    o2 = g2 * c1 + g3 * e1 + g4 * sigma1
    f2, f3, f4 = g2 + g2, g3 + g3, g4 + g4
    v1 = (f2 * y2[0] - g1 * d2[0], f2 * y2[1] - g1 * d2[1], f2 * y2[2] - g1 * d2[2])
    v2 = (f3 * y2[0] - g2 * d2[0], f3 * y2[1] - g2 * d2[1], f3 * y2[2] - g2 * d2[2])
    v3 = (f4 * y2[0] - g3 * d2[0], f4 * y2[1] - g3 * d2[1], f4 * y2[2] - g3 * d2[2])
    # site 1 seen from site 2: r changes sign; gradient and v with their signs for +r
    w1 = (f2 * y1[0] + g1 * d1[0], f2 * y1[1] + g1 * d1[1], f2 * y1[2] + g1 * d1[2])
    w2 = (f3 * y1[0] + g2 * d1[0], f3 * y1[1] + g2 * d1[1], f3 * y1[2] + g2 * d1[2])
    double = q1[0] * q2[0] + q1[3] * q2[3] + q1[5] * q2[5]
    double = double + 2.0 * (q1[1] * q2[1] + q1[2] * q2[2] + q1[4] * q2[4])
    along = c1 * s1 + e1 * s2 + sigma1 * s3 + dot(d1, v2) + 2.0 * dot(y1, v3) + f3 * double
    a, b = times(q1, v2), times(q2, w2)
    gradient = (
        r[0] * along + c1 * v1[0] + e1 * v2[0] + sigma1 * v3[0]
        + d1[0] * s1 + 2.0 * (y1[0] * s2 + a[0] + b[0]),
        r[1] * along + c1 * v1[1] + e1 * v2[1] + sigma1 * v3[1]
        + d1[1] * s1 + 2.0 * (y1[1] * s2 + a[1] + b[1]),
        r[2] * along + c1 * v1[2] + e1 * v2[2] + sigma1 * v3[2]
        + d1[2] * s1 + 2.0 * (y1[2] * s2 + a[2] + b[2]),
    )  # fmt: skip
    field1 = site_field(r, g2, s0, s1, s2, v1, v2, q2)
    back = (-r[0], -r[1], -r[2])
    field2 = site_field(
        back, g2, o0, o1, o2, (-w1[0], -w1[1], -w1[2]), (-w2[0], -w2[1], -w2[2]), q1
    )
    return gradient, field1, field2
