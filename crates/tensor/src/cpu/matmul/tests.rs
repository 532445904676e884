use super::*;
use crate::cpu::Runs;
use crate::cpu::pool;
use crate::cpu::runs::told_once;

/// Numbers in [-1, 1) with few significant bits, from a fixed sequence.
fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as i32 % 256 - 128) as f64 / 128.0
        })
        .collect()
}

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug)]
enum Lay {
    Rows,
    Cols,
    /// Every third element, rows padded.
    Sparse,
    /// Rows from the last to the first.
    Reversed,
    /// One row for all.
    RepeatRow,
    /// One column for all.
    RepeatCol,
    /// The same matrix for every batch.
    Shared,
}

struct Stored<T> {
    data: Vec<T>,
    offset: usize,
    batch: Vec<isize>,
    row: isize,
    col: isize,
}

fn store<T: Scalar>(lay: Lay, batch: &[usize], rows: usize, cols: usize, seed: u64) -> Stored<T> {
    let (r, c) = (rows as isize, cols as isize);
    let (row, col, span) = match lay {
        Lay::Rows | Lay::Shared | Lay::Reversed => (c, 1, r * c),
        Lay::Cols => (1, r, r * c),
        Lay::Sparse => (3 * c + 5, 3, r * (3 * c + 5)),
        Lay::RepeatRow => (0, 1, c),
        Lay::RepeatCol => (1, 0, r),
    };
    let mut step = span;
    let mut strides = vec![0; batch.len()];
    for d in (0..batch.len()).rev() {
        if !matches!(lay, Lay::Shared) {
            strides[d] = step;
            step *= batch[d] as isize;
        }
    }
    let integer = !T::DTYPE.is_float();
    let data = numbers(step.max(1) as usize, seed)
        .into_iter()
        .map(|x| T::from_f64(if integer { (x * 128.0).floor() } else { x }))
        .collect();
    let back = matches!(lay, Lay::Reversed) && rows > 0;
    Stored {
        data,
        offset: if back { (rows - 1) * cols } else { 0 },
        batch: strides,
        row: if back { -row } else { row },
        col,
    }
}

impl<T: Scalar> Stored<T> {
    fn operand(&self) -> Operand<'_, T> {
        Operand {
            ptr: self.data[self.offset..].as_ptr(),
            batch: &self.batch,
            row: self.row,
            col: self.col,
            constant: None,
        }
    }
    fn at(&self, batch: isize, i: usize, j: usize) -> T {
        let at = self.offset as isize + batch + i as isize * self.row + j as isize * self.col;
        self.data[at as usize]
    }
}

fn run<T: Scalar>(dims: Dims<'_>, a: &Stored<T>, b: &Stored<T>) -> Vec<T> {
    let len = dims.batch.iter().product::<usize>() * dims.m * dims.n;
    let mut out = vec![T::from_f64(99.0); len];
    let (_, end) = told_once(|after| {
        // SAFETY: the operands were laid out for these sizes.
        unsafe { matmul(dims, a.operand(), b.operand(), out.as_mut_ptr(), after) }
    });
    assert_eq!(end, len);
    out
}

fn check<T: Scalar>(batch: &[usize], m: usize, n: usize, k: usize, la: Lay, lb: Lay, tol: f64) {
    for precision in Precision::ALL {
        check_at::<T>(precision, batch, m, n, k, (la, lb), tol);
    }
}

fn check_at<T: Scalar>(
    precision: Precision,
    batch: &[usize],
    m: usize,
    n: usize,
    k: usize,
    (la, lb): (Lay, Lay),
    tol: f64,
) {
    let dims = Dims {
        batch,
        m,
        n,
        k,
        precision,
    };
    let a = store::<T>(la, batch, m, k, (m * 7 + n) as u64);
    let b = store::<T>(lb, batch, k, n, (k * 5 + n) as u64 + 99);
    let out = run(dims, &a, &b);
    let count: usize = batch.iter().product();
    for bi in 0..count {
        let (mut rest, mut oa, mut ob) = (bi, 0, 0);
        for d in (0..batch.len()).rev() {
            oa += (rest % batch[d]) as isize * a.batch[d];
            ob += (rest % batch[d]) as isize * b.batch[d];
            rest /= batch[d];
        }
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut size) = (0.0, 0.0);
                for l in 0..k {
                    let t = a.at(oa, i, l).to_f64() * b.at(ob, l, j).to_f64();
                    sum += t;
                    size += t.abs();
                }
                let want = match T::DTYPE {
                    DType::U8 => (sum as i64 as u8) as f64,
                    DType::I32 => (sum as i64 as i32) as f64,
                    _ => sum,
                };
                let got = out[(bi * m + i) * n + j].to_f64();
                assert!(
                    (got - want).abs() <= tol * (size + want.abs()),
                    "{:?} {batch:?} {m}x{k}x{n} {la:?} {lb:?} at {bi},{i},{j}: {got} not {want}",
                    T::DTYPE
                );
            }
        }
    }
}

const LAYS: [Lay; 7] = [
    Lay::Rows,
    Lay::Cols,
    Lay::Sparse,
    Lay::Reversed,
    Lay::RepeatRow,
    Lay::RepeatCol,
    Lay::Shared,
];

#[test]
fn floats_agree_with_f64_in_every_layout() {
    let sizes = [
        (1, 1, 1),
        (1, 300, 70),
        (300, 1, 70),
        (70, 70, 1),
        (5, 7, 3),
        (14, 32, 9),
        (15, 33, 17),
        (31, 100, 40),
        (64, 10, 128),
        (67, 130, 45),
        (3, 65, 700),
        (129, 48, 16),
    ];
    for (m, n, k) in sizes {
        for la in LAYS {
            for lb in LAYS {
                check::<f32>(&[2], m, n, k, la, lb, 1e-5);
            }
        }
        check::<f64>(&[], m, n, k, Lay::Rows, Lay::Rows, 1e-13);
        check::<f64>(&[3], m, n, k, Lay::Cols, Lay::Rows, 1e-13);
        check::<f64>(&[], m, n, k, Lay::Rows, Lay::Cols, 1e-13);
        check::<f64>(&[2, 2], m, n, k, Lay::Sparse, Lay::Sparse, 1e-13);
    }
}

#[test]
fn large_and_lopsided_shapes() {
    for (m, n, k) in [
        (64, 256, 784),
        (784, 256, 64),
        (256, 784, 64),
        (300, 500, 1100),
        (8, 8, 20_000),
        // Short sums; tiles of different heights and rows packed for many panels.
        (64, 4096, 6),
        (29, 1100, 150),
        (1, 5000, 300),
        (5000, 1, 300),
        (2000, 17, 33),
        (17, 2000, 33),
    ] {
        check::<f32>(&[], m, n, k, Lay::Rows, Lay::Rows, 2e-5);
        check::<f32>(&[], m, n, k, Lay::Rows, Lay::Cols, 2e-5);
        check::<f32>(&[], m, n, k, Lay::Cols, Lay::Rows, 2e-5);
        check::<f32>(&[], m, n, k, Lay::Cols, Lay::Cols, 2e-5);
    }
}

/// Sums in parts, columns and sums in slabs.
#[test]
fn operands_larger_than_a_cache() {
    for (m, n, k) in [
        (1, 700, 1000),
        (3, 1001, 500),
        (8, 1200, 900),
        (4, 9000, 800),
        (33, 1100, 1300),
        (33, 3000, 700),
        // Computed transposed.
        (1100, 33, 1300),
    ] {
        for lays in [(Lay::Rows, Lay::Rows), (Lay::Cols, Lay::Cols)] {
            check_at::<f32>(Precision::Highest, &[], m, n, k, lays, 2e-5);
        }
    }
    for (m, n, k) in [(3, 1001, 500), (33, 600, 1300)] {
        let lays = (Lay::Rows, Lay::Rows);
        check_at::<f64>(Precision::Highest, &[], m, n, k, lays, 1e-12);
    }
}

#[test]
fn batches_fold_and_broadcast() {
    for batch in [&[4, 3][..], &[1, 5], &[2, 1, 3], &[7]] {
        for la in [Lay::Rows, Lay::Shared, Lay::Cols] {
            for lb in [Lay::Rows, Lay::Shared, Lay::Cols] {
                check::<f32>(batch, 1, 20, 30, la, lb, 1e-5);
                check::<f32>(batch, 9, 20, 30, la, lb, 1e-5);
                check::<f32>(batch, 40, 33, 50, la, lb, 1e-5);
            }
        }
    }
}

#[test]
fn halves_and_integers() {
    for (la, lb) in [
        (Lay::Rows, Lay::Rows),
        (Lay::Cols, Lay::Shared),
        (Lay::Sparse, Lay::Reversed),
        (Lay::RepeatRow, Lay::Cols),
    ] {
        check::<f16>(&[2, 2], 9, 17, 33, la, lb, 1e-3);
        check::<bf16>(&[3], 9, 17, 33, la, lb, 8e-3);
        check::<i64>(&[2], 5, 6, 7, la, lb, 0.0);
        check::<i32>(&[2], 5, 6, 7, la, lb, 0.0);
        check::<u8>(&[2], 5, 6, 7, la, lb, 0.0);
    }
}

/// Products of one part on the calling thread, overwriting and adding, into rows with gaps.
#[test]
#[cfg(target_arch = "x86_64")]
fn blocks_by_tiles_agree_with_f64() {
    if crate::cpu::unit::serving(Precision::Medium).is_none() {
        return;
    }
    for (m, n, k) in [
        (64, 256, 64),
        (50, 97, 70),
        (16, 512, 33),
        (33, 16, 600),
        (5, 7, 2100),
        (64, 70, 2100),
    ] {
        for (la, lb) in [
            (Lay::Rows, Lay::Rows),
            (Lay::Rows, Lay::Cols),
            (Lay::Cols, Lay::Rows),
            (Lay::Cols, Lay::Sparse),
        ] {
            let (a, b) = (
                store::<f32>(la, &[], m, k, 3),
                store::<f32>(lb, &[], k, n, 4),
            );
            let matrix = |x: &Stored<f32>| Matrix::new(x.operand().ptr, x.row, x.col);
            for add in [false, true] {
                let row = n + 3;
                let mut c = vec![2f32; m * row];
                let (out, step) = (c.as_mut_ptr(), row as isize);
                let (x, y) = (matrix(&a), matrix(&b));
                // SAFETY: operands and output have these sizes; there is a unit.
                unsafe { unit::block(m, n, k, x, y, out, step, add) };
                for (at, &got) in c.iter().enumerate() {
                    let (i, j) = (at / row, at % row);
                    let before = if add { 2.0 } else { 0.0 };
                    let terms = (0..k).map(|l| a.at(0, i, l) as f64 * b.at(0, l, j) as f64);
                    let want = if j < n {
                        terms.sum::<f64>() + before
                    } else {
                        2.0
                    };
                    assert!(
                        (got as f64 - want).abs() < 1e-3,
                        "{i}, {j}: {got} not {want}"
                    );
                }
            }
        }
    }
}

/// Products by rows and by columns, of whole blocks and borders, over several chunks of the sums, some
/// lines of which have numbers that the unit cannot split.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_on_the_unit_agree_with_f64() {
    for (m, n, k) in [
        (100, 300, 1100),
        (300, 70, 1100),
        (64, 96, 4200),
        (256, 300, 40),
    ] {
        for precision in Precision::ALL {
            if crate::cpu::unit::serving(precision).is_none() {
                continue;
            }
            let tolerance = match precision {
                Precision::Highest => 1e-6,
                Precision::High => 3e-5,
                Precision::Medium => 8e-3,
            };
            // Rows of the first operand and columns of the second lie in a piece, or the other way round.
            for [(ar, ac), (br, bc)] in [[(k, 1), (1, k)], [(1, m), (n, 1)]] {
                for special in [1.0, f32::INFINITY, 1e-31] {
                    let mut a = full_numbers(m * k, 21);
                    let b = full_numbers(k * n, 22);
                    (0..k).for_each(|l| a[35 * ar + l * ac] *= special);
                    let x = Matrix::new(a.as_ptr(), ar as isize, ac as isize);
                    let y = Matrix::new(b.as_ptr(), br as isize, bc as isize);
                    let mut c = vec![0f32; m * n];
                    let out = c.as_mut_ptr();
                    // SAFETY: operands and output have these sizes; there is a unit.
                    let multiply = |after: crate::cpu::After<'_>| unsafe {
                        unit::parallel(m, n, k, x, y, precision, out, 0, after)
                    };
                    let ((), end) = crate::cpu::runs::told_once(multiply);
                    assert_eq!(end, m * n);
                    for i in (0..m).step_by(5) {
                        for j in (0..n).step_by(7) {
                            let got = c[i * n + j] as f64;
                            let terms = (0..k)
                                .map(|l| a[i * ar + l * ac] as f64 * b[l * br + j * bc] as f64);
                            let size: f64 = terms.clone().map(f64::abs).sum();
                            let error = (got - terms.sum::<f64>()).abs();
                            let fine = match size.is_finite() {
                                true => error <= tolerance * size,
                                false => !got.is_finite(),
                            };
                            assert!(
                                fine,
                                "{m} {n} {k} {precision} {special}: {i}, {j}: {got}, {error}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A side that is packed once and kept gives the same bits as one that is packed anew, whichever it
/// is; sums longer than what is packed at a time, too.
#[test]
#[cfg(target_arch = "x86_64")]
fn kept_sides_agree_with_packed_ones() {
    use crate::cpu::constant::Constant;
    use crate::cpu::storage::Storage;
    for (m, n, k) in [(200, 48, 96), (48, 200, 96), (1, 300, 80), (70, 90, 5000)] {
        for precision in Precision::ALL {
            if crate::cpu::unit::serving(precision).is_none() {
                continue;
            }
            for lay in [Lay::Rows, Lay::Cols] {
                let a = store::<f32>(Lay::Rows, &[], m, k, 3);
                let b = store::<f32>(lay, &[], k, n, 4);
                let [x, y] = [&a, &b].map(|x| Storage::from_slice(&x.data));
                let product = |kept: [bool; 2]| {
                    let [a, b] = [(&a, &x, kept[0]), (&b, &y, kept[1])].map(|(of, at, kept)| {
                        let ptr = at.as_ptr().cast::<f32>().wrapping_add(of.offset);
                        let mut matrix = Matrix::new(ptr.cast_const(), of.row, of.col);
                        // SAFETY: the copies stay as they are.
                        matrix.constant = kept.then(|| unsafe { Constant::new(at) });
                        matrix
                    });
                    let mut c = vec![0f32; m * n];
                    let out = c.as_mut_ptr();
                    // SAFETY: operands and output have these sizes; there is a unit.
                    unsafe { unit::parallel(m, n, k, a, b, precision, out, 0, After::none()) };
                    c
                };
                let wanted = product([false, false]);
                for kept in [[true, false], [false, true], [true, true]] {
                    for time in 1..=3 {
                        let what = (m, n, k, precision, kept, time);
                        assert!(product(kept) == wanted, "{what:?}");
                    }
                }
            }
        }
    }
}

/// A result that only the epilogue reads comes to it with the same bits, wherever it lies; by rows, by
/// columns, turned, in several matrices, with sums in pieces, and with factors that have no exact parts.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_result_for_the_epilogue_alone_may_lie_apart() {
    use std::sync::Mutex;
    for (batch, m, n, k) in [
        (1, 200, 70, 96),
        (1, 70, 200, 96),
        (1, 90, 300, 40),
        (1, 300, 90, 70),
        (1, 200, 70, 2100),
        (1, 40, 70, 5000),
        (2, 300, 90, 70),
    ] {
        for (precision, huge) in Precision::ALL
            .into_iter()
            .flat_map(|p| [(p, false), (p, true)])
        {
            let batch = &[batch][..];
            let a = store::<f32>(Lay::Rows, batch, m, k, 5);
            let mut b = store::<f32>(Lay::Cols, batch, k, n, 6);
            if huge {
                b.data.iter_mut().step_by(3).for_each(|x| *x *= 1e30);
            }
            let dims = Dims {
                batch,
                m,
                n,
                k,
                precision,
            };
            let len = batch[0] * m * n;
            let product = |alone: bool| {
                let mut c = vec![0f32; len];
                let (done, apart) = (Mutex::new(vec![f32::NAN; len]), Mutex::new(0));
                let out = c.as_mut_ptr() as usize;
                let after = |runs: Runs| {
                    let mut done = done.lock().unwrap();
                    let mut near = runs.apart.map(<*const u8>::cast::<f32>);
                    *apart.lock().unwrap() += near.is_some() as usize;
                    for run in runs.each() {
                        let from = near.unwrap_or((out as *const f32).wrapping_add(run.start));
                        // SAFETY: elements that are finished.
                        let from = unsafe { std::slice::from_raw_parts(from, run.len()) };
                        done[run.clone()].copy_from_slice(from);
                        near = near.map(|p| p.wrapping_add(run.len()));
                    }
                };
                let after = After::new(&after).alone(alone);
                // SAFETY: operands and output have these sizes.
                unsafe { matmul(dims, a.operand(), b.operand(), out as *mut f32, after) };
                (done.into_inner().unwrap(), apart.into_inner().unwrap())
            };
            let what = (batch, m, n, k, precision, huge);
            let ((wanted, never), (got, apart)) = (product(false), product(true));
            assert_eq!(never, 0, "{what:?}");
            assert!(wanted == got, "{what:?}");
            // Longer sums come in several passes over the output.
            let pays = unit::pays(m, n, k, precision, [false; 2]) && k <= 4096;
            assert!(apart > 0 || !pays || batch[0] > 1, "{what:?}");
        }
    }
}

#[test]
fn empty_sizes() {
    let none = |dims: Dims<'_>| {
        let a = store::<f32>(Lay::Rows, dims.batch, dims.m, dims.k, 1);
        let b = store::<f32>(Lay::Rows, dims.batch, dims.k, dims.n, 2);
        run(dims, &a, &b)
    };
    let (m, n, k) = (3, 4, 5);
    let precision = Precision::Highest;
    let sizes = |batch, m, n, k| Dims {
        batch,
        m,
        n,
        k,
        precision,
    };
    assert!(none(sizes(&[0], m, n, k)).is_empty());
    assert!(none(sizes(&[2], 0, n, k)).is_empty());
    assert!(none(sizes(&[], m, 0, k)).is_empty());
    assert!(none(sizes(&[2], m, n, 0)).iter().all(|&x| x == 0.0));
}

#[test]
fn not_a_number_and_infinity_spread_as_they_should() {
    let batch = [];
    let (m, n, k) = (70, 90, 130);
    let mut a = store::<f32>(Lay::Rows, &batch, m, k, 1);
    let b = store::<f32>(Lay::Rows, &batch, k, n, 2);
    a.data[3 * k + 4] = f32::NAN;
    a.data[5 * k] = f32::INFINITY;
    for precision in Precision::ALL {
        let dims = Dims {
            batch: &batch,
            m,
            n,
            k,
            precision,
        };
        let out = run(dims, &a, &b);
        for (i, row) in out.chunks(n).enumerate() {
            match i {
                3 => assert!(row.iter().all(|x| x.is_nan())),
                5 => {
                    for (x, b) in row.iter().zip(&b.data) {
                        assert!(match *b {
                            0.0 => x.is_nan(),
                            b => *x == f32::INFINITY * b,
                        });
                    }
                }
                _ => assert!(row.iter().all(|x| x.is_finite())),
            }
        }
    }
}

#[test]
fn the_same_bits_at_any_thread_count() {
    for (batch, m, n, k) in [
        (2, 64, 256, 784),
        (2, 784, 256, 64),
        (2, 33, 65, 3000),
        (2, 1, 999, 200),
        (2, 500, 3, 400),
        (2, 29, 1100, 150),
        // Sums in parts, and slabs.
        (1, 3, 1001, 500),
        (1, 33, 1100, 1300),
    ] {
        for lays in [
            (Lay::Rows, Lay::Rows),
            (Lay::Rows, Lay::Cols),
            (Lay::Cols, Lay::Rows),
            (Lay::Cols, Lay::Cols),
        ] {
            let a = store::<f32>(lays.0, &[batch], m, k, 5);
            let b = store::<f32>(lays.1, &[batch], k, n, 6);
            for precision in Precision::ALL {
                let dims = Dims {
                    batch: &[batch],
                    m,
                    n,
                    k,
                    precision,
                };
                let with = |threads| {
                    pool::set_threads(threads);
                    run(dims, &a, &b)
                };
                let one = with(1);
                for threads in [2, 3] {
                    let other = with(threads);
                    let same = one.iter().zip(&other);
                    assert!(same.into_iter().all(|(x, y)| x.to_bits() == y.to_bits()));
                }
            }
        }
    }
}

/// Numbers with all 24 bits in use.
fn full_numbers(len: usize, seed: u64) -> Vec<f32> {
    let coarse = numbers(3 * len, seed);
    let one = |x: &[f64]| (x[0] + x[1] / 256.0 + x[2] / 65536.0) as f32;
    coarse.chunks_exact(3).map(one).collect()
}

/// The root of the mean squared error of a product, each element's relative to the sum of its
/// terms' magnitudes; and the largest.
fn errors(
    precision: Precision,
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    b: &[f32],
) -> (f64, f64) {
    let stored = |data: &[f32], cols: usize| Stored {
        data: data.to_vec(),
        offset: 0,
        batch: vec![],
        row: cols as isize,
        col: 1,
    };
    let dims = Dims {
        batch: &[],
        m,
        n,
        k,
        precision,
    };
    let out = run(dims, &stored(a, k), &stored(b, n));
    let (mut squares, mut most) = (0.0, 0f64);
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 0.0);
            for l in 0..k {
                let term = a[i * k + l] as f64 * b[l * n + j] as f64;
                sum += term;
                size += term.abs();
            }
            if size > 0.0 {
                let error = (out[i * n + j] as f64 - sum).abs() / size;
                squares += error * error;
                most = most.max(error);
            }
        }
    }
    ((squares / (m * n) as f64).sqrt(), most)
}

/// The errors of the products in `f32` alone, as every `sgemm` has them; subnormal numbers count as
/// zero there too.
fn errors_of_sgemm((m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> (f64, f64) {
    let _flush = pool::flush_denormals();
    let (mut squares, mut most) = (0.0, 0f64);
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size, mut single) = (0.0, 0.0, 0f32);
            for l in 0..k {
                let (x, y) = (a[i * k + l], b[l * n + j]);
                single = x.mul_add(y, single);
                sum += x as f64 * y as f64;
                size += (x as f64 * y as f64).abs();
            }
            if size > 0.0 {
                let error = (single as f64 - sum).abs() / size;
                squares += error * error;
                most = most.max(error);
            }
        }
    }
    ((squares / (m * n) as f64).sqrt(), most)
}

#[test]
fn no_precision_errs_more_than_it_may() {
    let size = (96, 80, 500);
    let (m, n, k) = size;
    let a = full_numbers(m * k, 11);
    let b = full_numbers(k * n, 12);
    let scaled = |x: &[f32], width: usize, by: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        let each = x.iter().enumerate();
        each.map(|(i, x)| x * by(i / width, i % width)).collect()
    };
    let flat = |by: f32| move |_: usize, _: usize| by;
    let cases: Vec<(&str, Vec<f32>, Vec<f32>)> = vec![
        ("plain", a.clone(), b.clone()),
        (
            "tiny times huge",
            scaled(&a, k, &flat(1e-30)),
            scaled(&b, n, &flat(1e30)),
        ),
        (
            "tiny",
            scaled(&a, k, &flat(1e-15)),
            scaled(&b, n, &flat(1e-18)),
        ),
        ("hardly there", scaled(&a, k, &flat(1e-32)), b.clone()),
        (
            "huge",
            scaled(&a, k, &flat(1e17)),
            scaled(&b, n, &flat(1e18)),
        ),
        (
            "rows and columns of many sizes",
            scaled(&a, k, &|i, _| 10f32.powi(i as i32 % 40 - 20)),
            scaled(&b, n, &|_, j| 10f32.powi(j as i32 % 30 - 15)),
        ),
        (
            "sums of many sizes",
            scaled(&a, k, &|_, l| 10f32.powi(l as i32 % 20 - 10)),
            scaled(&b, n, &|l, _| 10f32.powi(10 - l as i32 % 20)),
        ),
    ];
    for (what, a, b) in &cases {
        let f32s = errors_of_sgemm(size, a, b);
        for precision in Precision::ALL {
            let found = errors(precision, size, a, b);
            let bound = match precision {
                Precision::Highest => f32s,
                Precision::High => (4e-6, 3e-5),
                Precision::Medium => (1e-3, 8e-3),
            };
            // Where the matrix unit is no use, sums in another order differ a little.
            let within = found.0 <= 1.05 * bound.0 && found.1 <= 1.2 * bound.1;
            assert!(within, "{what} {precision}: {found:?}, bound {bound:?}");
        }
    }
}
