#!/usr/bin/env python3
"""Prints the polynomial coefficients of crates/tensor/src/cpu/math (needs mpmath).

Each is a minimax fit (Remez exchange, 60 digits) of g on [a, b] by a polynomial of the given
degree, the error weighed by w so that it is relative to the function's final result.
"""

from mpmath import (
    mp,
    mpf,
    tanh,
    matrix,
    lu_solve,
    log,
    log1p,
    exp,
    expm1,
    erf,
    erfc,
    sin,
    cos,
    pi,
    sqrt,
    cos as mcos,
    nstr,
)

mp.dps = 60


def remez(g, w, a, b, degree, rounds=12):
    n = degree + 2
    a, b = mpf(a), mpf(b)
    nodes = [(a + b) / 2 - (b - a) / 2 * mcos(pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    grid = [(a + b) / 2 - (b - a) / 2 * mcos(pi * (2 * i + 1) / (2 * 60 * n)) for i in range(60 * n)]
    gv = [(x, g(x), abs(w(x))) for x in grid]
    for _ in range(rounds):
        A = matrix(n, n)
        y = matrix(n, 1)
        for i, x in enumerate(nodes):
            wx = abs(w(x))
            p = mpf(1)
            for k in range(degree + 1):
                A[i, k] = p * wx
                p *= x
            A[i, n - 1] = (-1) ** i
            y[i] = g(x) * wx
        s = lu_solve(A, y)
        c = [s[k] for k in range(degree + 1)]

        def err(x, gx, wx):
            p = mpf(0)
            for k in reversed(c):
                p = p * x + k
            return (p - gx) * wx

        e = [err(*t) for t in gv]
        peaks, start = [], 0
        for i in range(1, len(e) + 1):  # the extremum of each run of one sign
            if i == len(e) or (e[i] > 0) != (e[start] > 0):
                peaks.append(max(range(start, i), key=lambda j: abs(e[j])))
                start = i
        while len(peaks) > n:
            peaks.pop(0 if abs(e[peaks[0]]) < abs(e[peaks[-1]]) else -1)
        if len(peaks) < n:
            break
        new = [grid[j] for j in peaks]
        if new == nodes:
            break
        nodes = new
    return c, max(abs(x) for x in e)


def emit(name, kind, fit):
    c, e = fit
    print(f"// relative error {nstr(e, 3)} (2^{nstr(log(e, 2), 4)})")
    vals = []
    for x in c:
        vals.append(nstr(x, 9 if kind == "f32" else 17))
    print(f"const {name}: [{kind}; {len(c)}] = [{', '.join(vals)}];")


def rel0(f):
    """f, with its limit where the formula divides 0 by 0."""

    def g(x):
        return f(x if abs(x) > mpf(10) ** -18 else mpf(10) ** -18)

    return g


h = log(2) / 2 * mpf("1.0001")
P = rel0(lambda r: (expm1(r) - r) / r**2)
for kind, d in (("f32", 4), ("f64", 10)):
    emit("EXP", kind, remez(P, rel0(lambda r: r**2 / expm1(r)), -h, h, d))

L = rel0(lambda f: (log1p(f) - f + f * f / 2) / f**3)
emit("LOG", "f32", remez(L, rel0(lambda f: f**3 / log1p(f)), sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1, 8))


def R(z):  # z = s^2, s = f/(2+f): log(1+f) = 2s + s*R
    s = sqrt(z)
    return (log((1 + s) / (1 - s)) / s - 2) / z


smax = ((sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)) ** 2
emit("LOG", "f64", remez(rel0(R), rel0(lambda z: z / 2), mpf(10) ** -17, smax, 6))

for kind, top, d in (("f32", "1.0", 6), ("f64", "1.0", 12)):
    emit(
        "ERF_SMALL",
        kind,
        remez(
            rel0(lambda z: erf(sqrt(z)) / sqrt(z) - 1),
            rel0(lambda z: sqrt(z) / erf(sqrt(z))),
            mpf(10) ** -17,
            mpf(top) ** 2,
            d,
        ),
    )
# erf(x) = 1 - exp(-Q(x - c))
for kind, lo, hi, d in (("f32", "1.0", "4", 7), ("f64", "1.0", "6", 19)):
    c = mpf(lo) if kind == "f32" else (mpf(lo) + mpf(hi)) / 2
    emit(
        f"ERF_LARGE (centre {nstr(c, 4)})",
        kind,
        remez(lambda t: -log(erfc(t + c)), lambda t: erfc(t + c) / erf(t + c), mpf(lo) - c, mpf(hi) - c, d),
    )

q = (pi / 4 * mpf("1.001")) ** 2
for kind, ds, dc in (("f32", 3, 3), ("f64", 5, 5)):
    emit(
        "SIN",
        kind,
        remez(
            rel0(lambda z: (sin(sqrt(z)) / sqrt(z) - 1) / z),
            rel0(lambda z: z * sqrt(z) / sin(sqrt(z))),
            mpf(10) ** -17,
            q,
            ds,
        ),
    )
    emit(
        "COS",
        kind,
        remez(
            rel0(lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2),
            rel0(lambda z: z**2 / cos(sqrt(z))),
            mpf(10) ** -8,
            q,
            dc,
        ),
    )

emit(
    "TANH",
    "f32",
    remez(
        rel0(lambda z: (tanh(sqrt(z)) / sqrt(z) - 1) / z),
        rel0(lambda z: z * sqrt(z) / tanh(sqrt(z))),
        mpf(10) ** -17,
        mpf("0.55") ** 2,
        4,
    ),
)
