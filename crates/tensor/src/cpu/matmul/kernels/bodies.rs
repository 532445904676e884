//! The bodies of the kernels, the same for all instruction sets.

/// Runs `$step` for each `$l` below `$n`, four in a round of the loop: where a core is shared, what counts
/// and compares costs a tenth. (A closure would not be compiled for the instruction set.)
macro_rules! rounds {
    ($n:expr, |$l:ident| $step:block) => {
        let whole = $n - $n % 4;
        for first in (0..whole).step_by(4) {
            for more in 0..4 {
                let $l = first + more;
                $step
            }
        }
        for $l in whole..$n {
            $step
        }
    };
}
pub(super) use rounds;

/// Makes a module of kernels: `R` rows by `V` vectors of an element type.
///
/// An instruction set brings its functions: `part(n)` says which lanes are the first `n`,
/// `load_part` gives zero in the others, `store_part` leaves them as they are, and `sum` adds up a
/// vector.
macro_rules! bodies {
    ($module:ident: $t:ty, $lanes:literal lanes, $feature:literal, zero $zero:ident,
     splat $set1:ident, fma $fma:ident, add $add:ident, load $load:ident, store $store:ident,
     part $part:ident, load_part $load_part:ident, store_part $store_part:ident, sum $sum:ident) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $feature)]
            pub unsafe fn tile<const R: usize, const V: usize, const BY_ROW: bool>(t: &Tile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut b = t.b;
                let mut a = t.a;
                let (a_step, b_step) = (t.a_step, t.b_step);
                let b_part = $part(t.b_lanes);
                // The rows of a large output come from memory, which takes as long as the sums.
                for i in 0..R {
                    let c = t.c.wrapping_offset(i as isize * t.c_step);
                    for j in (0..V * $lanes).step_by(64 / size_of::<$t>()) {
                        prefetch(c.wrapping_add(j).cast());
                    }
                    // They need not begin where lines do.
                    prefetch(c.wrapping_add(V * $lanes - 1).cast());
                }
                let mut rows = [a; R];
                for i in 0..R {
                    rows[i] = a.wrapping_offset(i as isize * a_step);
                }
                rounds!(t.k, |l| {
                    let mut bv = [$zero(); V];
                    for j in 0..V {
                        // SAFETY: row `l` of the second operand, with the lanes that exist.
                        bv[j] = unsafe {
                            if j + 1 < V {
                                $load(b.add(j * $lanes))
                            } else {
                                $load_part(b_part, b.add(j * $lanes))
                            }
                        };
                    }
                    for i in 0..R {
                        // SAFETY: element `(i, l)` of the first operand.
                        let x = $set1(unsafe { if BY_ROW { *rows[i].add(l) } else { *a.add(i) } });
                        for j in 0..V {
                            acc[i][j] = $fma(x, bv[j], acc[i][j]);
                        }
                    }
                    b = b.wrapping_offset(b_step);
                    if !BY_ROW {
                        a = a.wrapping_offset(a_step);
                    }
                });
                let c_part = $part(t.c_lanes);
                for i in 0..R {
                    let c = t.c.wrapping_offset(i as isize * t.c_step);
                    for j in 0..V {
                        // SAFETY: the lanes of row `i` that exist.
                        unsafe {
                            let c = c.add(j * $lanes);
                            let x = acc[i][j];
                            match (j + 1 < V, t.accumulate) {
                                (true, false) => $store(c, x),
                                (true, true) => $store(c, $add(x, $load(c))),
                                (false, false) => $store_part(c, c_part, x),
                                (false, true) => {
                                    $store_part(c, c_part, $add(x, $load_part(c_part, c)));
                                }
                            }
                        }
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub unsafe fn dots<const R: usize, const V: usize>(t: &Dots<$t>) {
                let mut acc = [[$zero(); V]; R];
                let whole = t.k - t.k % $lanes;
                /// Multiplies and adds a group of lanes, as `$get` reads them.
                macro_rules! step {
                    ($l:expr, |$p:ident| $get:expr) => {
                        let mut v = [$zero(); V];
                        for j in 0..V {
                            let $p = t.vectors.add(j * t.k + $l);
                            v[j] = $get;
                        }
                        for i in 0..R {
                            let $p = t.rows.offset(i as isize * t.row).add($l);
                            let x = $get;
                            for j in 0..V {
                                acc[i][j] = $fma(x, v[j], acc[i][j]);
                            }
                        }
                    };
                }
                // SAFETY: the lanes of each row and vector that exist.
                unsafe {
                    for l in (0..whole).step_by($lanes) {
                        step!(l, |p| $load(p));
                    }
                    if whole < t.k {
                        let part = $part(t.k - whole);
                        step!(whole, |p| $load_part(part, p));
                    }
                }
                for i in 0..R {
                    for j in 0..V {
                        let at = i as isize * t.c_row + j as isize * t.c_vector;
                        // SAFETY: an element of the output.
                        unsafe { *t.c.offset(at) = $sum(acc[i][j]) };
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub unsafe fn image<const R: usize, const V: usize, const STEP: usize>(
                t: &ImageTile<$t>,
            ) {
                let mut acc = [[$zero(); V]; R];
                let mut b = t.b;
                rounds!(t.k, |l| {
                    // SAFETY: row `l` of the second operand; the elements of the image under the
                    // tile.
                    unsafe {
                        let a = t.a.add(*t.offsets.add(l));
                        let mut bv = [$zero(); V];
                        for j in 0..V {
                            bv[j] = $load(b.add(j * $lanes));
                        }
                        for i in 0..R {
                            let x = $set1(*a.add(i * STEP));
                            for j in 0..V {
                                acc[i][j] = $fma(x, bv[j], acc[i][j]);
                            }
                        }
                        b = b.add(t.b_step);
                    }
                });
                for i in 0..R {
                    for j in 0..V {
                        // SAFETY: row `i` of the output.
                        unsafe {
                            let c = t.c.add(i * t.c_step + j * $lanes);
                            $store(c, acc[i][j]);
                        }
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub unsafe fn plane<const R: usize, const V: usize>(t: &PlaneTile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut from = [t.image; V];
                let mut w = t.w;
                // SAFETY: the runs of the tile, the image under them, the weights of its channels
                // and the output's lanes that exist.
                unsafe {
                    for j in 0..V {
                        from[j] = t.image.add((*t.runs.add(j)).from);
                    }
                    rounds!(t.k, |l| {
                        let at = *t.offsets.add(l);
                        let mut v = [$zero(); V];
                        for j in 0..V {
                            v[j] = $load(from[j].add(at));
                        }
                        for i in 0..R {
                            let x = $set1(*w.add(i));
                            for j in 0..V {
                                acc[i][j] = $fma(x, v[j], acc[i][j]);
                            }
                        }
                        w = w.add(R);
                    });
                    for j in 0..V {
                        let run = *t.runs.add(j);
                        let part = $part(run.lanes);
                        for i in 0..R {
                            let c = t.c.add(i * t.c_step + run.to);
                            $store_part(c, part, acc[i][j]);
                        }
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub unsafe fn weight<const R: usize, const V: usize>(t: &WeightTile<$t>) {
                let mut acc = [[$zero(); V]; R];
                let mut rows = [t.a; R];
                for i in 0..R {
                    // SAFETY: the offsets of the tile's rows.
                    rows[i] = unsafe { t.a.add(*t.offsets.add(i)) };
                }
                let mut b = t.b;
                for y in 0..t.size[0] {
                    let mut at = y * t.steps[0];
                    for _ in 0..t.size[1] {
                        // SAFETY: a position of the second operand, and of the image.
                        unsafe {
                            let mut bv = [$zero(); V];
                            for j in 0..V {
                                bv[j] = $load(b.add(j * $lanes));
                            }
                            for i in 0..R {
                                let x = $set1(*rows[i].add(at));
                                for j in 0..V {
                                    acc[i][j] = $fma(x, bv[j], acc[i][j]);
                                }
                            }
                            b = b.add(t.b_step);
                        }
                        at += t.steps[1];
                    }
                }
                for i in 0..R {
                    for j in 0..V {
                        // SAFETY: row `i` of the output.
                        unsafe {
                            let c = t.c.add(i * t.c_step + j * $lanes);
                            let mut x = acc[i][j];
                            if t.accumulate {
                                x = $add(x, $load(c));
                            }
                            $store(c, x);
                        }
                    }
                }
            }
        }
    };
}
pub(super) use bodies;

/// The kernels of a [`bodies`] module with so many rows, as a list.
macro_rules! rows {
    ($m:ident::$f:ident<[$($r:literal)*], $v:literal>) => { &[$($m::$f::<$r, $v>),*] };
    ($m:ident::$f:ident<[$($r:literal)*], $v:literal, $how:literal>) => {
        &[$($m::$f::<$r, $v, $how>),*]
    };
}
pub(super) use rows;

/// The kernels of a [`bodies`] module with so many vectors, as a list.
macro_rules! columns {
    ($m:ident::$f:ident<$r:literal, [$($v:literal)*]>) => { &[$($m::$f::<$r, $v>),*] };
}
pub(super) use columns;
