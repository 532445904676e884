use super::*;
use crate::cpu::index::IndexError;

fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed;
    (0..n)
        .map(|_| {
            s = s
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((s >> 40) as f64 / 16777216.0 - 0.5) * 4.0
        })
        .collect()
}

fn to32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

#[track_caller]
fn close<A: Element, B: Element>(got: &[A], want: &[B], tol: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (g, w) = (g.to_f64(), w.to_f64());
        let ok = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tol * (1.0 + w.abs());
        assert!(ok, "element {i}: {g}, not {w}");
    }
}

/// Runs `f` with 1 and 2 threads, asserts equal bits, returns the result.
#[track_caller]
fn both<T: Element>(f: impl Fn() -> Vec<T>) -> Vec<T> {
    pool::set_threads(1);
    let one = f();
    pool::set_threads(2);
    let two = f();
    let bits = |v: &[T]| v.iter().map(|x| x.to_f64().to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&one), bits(&two), "thread counts disagree");
    one
}

/// Asserts that `dx` is the gradient of `sum(f(x) * dy)`, by central differences at some places.
#[track_caller]
fn is_gradient(f: impl Fn(&[f64]) -> Vec<f64>, x: &[f64], dy: &[f64], dx: &[f64]) {
    let h = 1e-5;
    for i in (0..x.len()).step_by(1 + x.len() / 40) {
        let at = |v: f64| -> f64 {
            let mut x = x.to_vec();
            x[i] = v;
            f(&x).iter().zip(dy).map(|(a, b)| a * b).sum()
        };
        let want = (at(x[i] + h) - at(x[i] - h)) / (2.0 * h);
        let ok = (dx[i] - want).abs() < 1e-6 * (1.0 + want.abs());
        assert!(ok, "gradient at {i}: {} but {want} by differences", dx[i]);
    }
}

/// (rows, n)
const SIZES: [(usize, usize); 10] = [
    (0, 5),
    (5, 0),
    (1, 1),
    (3, 1),
    (7, 10),
    (64, 10),
    (5, 77),
    (3, 1000),
    (2, 9001),
    (300, 129),
];

fn apply<T: RowFloat>(f: fn(&[T], usize, &mut [T]), x: &[T], n: usize) -> Vec<T> {
    both(|| {
        let mut y = vec![T::default(); x.len()];
        f(x, n, &mut y);
        y
    })
}

fn apply_grad<T: RowFloat>(
    f: fn(&[T], &[T], usize, &mut [T]),
    y: &[T],
    dy: &[T],
    n: usize,
) -> Vec<T> {
    both(|| {
        let mut dx = vec![T::default(); y.len()];
        f(y, dy, n, &mut dx);
        dx
    })
}

#[test]
fn softmax_and_log_softmax() {
    for (rows, n) in SIZES {
        let (x, dy) = (noise(rows * n, 1), noise(rows * n, 2));
        let (mut soft, mut log) = (vec![], vec![]);
        for row in x.chunks(n.max(1)) {
            let max = row.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|v| (v - max).exp()).sum();
            soft.extend(row.iter().map(|v| (v - max).exp() / sum));
            log.extend(row.iter().map(|v| v - max - sum.ln()));
        }
        let (y, ly) = (apply(softmax, &x, n), apply(log_softmax, &x, n));
        close(&y, &soft, 1e-13);
        close(&ly, &log, 1e-13);
        close(&apply(softmax, &to32(&x), n), &soft, 5e-7);
        close(&apply(log_softmax, &to32(&x), n), &log, 5e-7);

        let dx = apply_grad(softmax_grad, &y, &dy, n);
        is_gradient(|x| apply(softmax, x, n), &x, &dy, &dx);
        close(
            &apply_grad(softmax_grad, &to32(&y), &to32(&dy), n),
            &dx,
            1e-6,
        );
        let dx = apply_grad(log_softmax_grad, &ly, &dy, n);
        is_gradient(|x| apply(log_softmax, x, n), &x, &dy, &dx);
        close(
            &apply_grad(log_softmax_grad, &to32(&ly), &to32(&dy), n),
            &dx,
            1e-5,
        );
    }
}

#[test]
fn softmax_of_extremes() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let x = [
        -inf, 0.0, 1.0, 200.0, -200.0, 0.0, -inf, -inf, -inf, inf, 0.0, 0.0, nan, 0.0, 0.0,
    ];
    let y = apply(softmax, &x, 3);
    assert_eq!(y[0], 0.0);
    assert!((y[2] - 0.731_058_6).abs() < 1e-6);
    assert_eq!(y[3..6], [1.0, 0.0, 0.0]);
    assert!(
        y[6..9].iter().all(|v| v.is_nan()),
        "a row of -inf has no softmax"
    );
    assert!(y[9].is_nan() && y[12..].iter().all(|v| v.is_nan()));
}

#[test]
fn cross_entropy_and_its_gradient() {
    for (rows, n) in SIZES.into_iter().filter(|s| s.1 > 0) {
        let (x, dl) = (noise(rows * n, 3), noise(rows, 4));
        let ignore = -100;
        let t: Vec<i64> = (0..rows)
            .map(|i| {
                if i % 5 == 4 {
                    ignore
                } else {
                    (i * 7 % n) as i64
                }
            })
            .collect();
        let log = apply(log_softmax, &x, n);
        let want: Vec<f64> = (0..rows)
            .map(|i| {
                if t[i] == ignore {
                    0.0
                } else {
                    -log[i * n + t[i] as usize]
                }
            })
            .collect();
        fn loss<T: RowFloat>(x: &[T], n: usize, t: &[i64]) -> Vec<T> {
            both(|| {
                let mut l = vec![T::default(); t.len()];
                cross_entropy(x, n, t, -100, &mut l).unwrap();
                l
            })
        }
        fn grad<T: RowFloat>(x: &[T], n: usize, t: &[i64], dl: &[T]) -> Vec<T> {
            both(|| {
                let mut dx = vec![T::default(); x.len()];
                cross_entropy_grad(x, n, t, -100, dl, &mut dx).unwrap();
                dx
            })
        }
        close(&loss(&x, n, &t), &want, 1e-12);
        close(&loss(&to32(&x), n, &t), &want, 1e-6);
        let dx = grad(&x, n, &t, &dl);
        is_gradient(|x| loss(x, n, &t), &x, &dl, &dx);
        close(&grad(&to32(&x), n, &t, &to32(&dl)), &dx, 1e-6);
    }
    let err = cross_entropy(&[0f32; 6], 3, &[0, 3], -100, &mut [0.0; 2]);
    assert_eq!(err, Err(IndexError { index: 3, size: 3 }));
    let err = cross_entropy_grad(&[0f32; 6], 3, &[-1, 1], -100, &[0.0; 2], &mut [0.0; 6]);
    assert_eq!(err, Err(IndexError { index: -1, size: 3 }));
}

#[test]
fn layer_norm_and_its_gradients() {
    let eps = 1e-5;
    for (rows, n) in SIZES {
        let (x, dy) = (noise(rows * n, 5), noise(rows * n, 6));
        let (w, b) = (noise(n, 7), noise(n, 8));
        for (w, b) in [
            (None, None),
            (Some(&w), None),
            (None, Some(&b)),
            (Some(&w), Some(&b)),
        ] {
            let mut want = vec![];
            for row in x.chunks(n.max(1)) {
                let mean = row.iter().sum::<f64>() / n as f64;
                let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                want.extend(row.iter().enumerate().map(|(j, v)| {
                    (v - mean) / (var + eps).sqrt() * w.map_or(1.0, |w| w[j])
                        + b.map_or(0.0, |b| b[j])
                }));
            }
            let forward = |x: &[f64], w: Option<&[f64]>, b: Option<&[f64]>| {
                both(|| {
                    let mut y = vec![0.0; x.len()];
                    layer_norm(x, n, w, b, eps, &mut y);
                    y
                })
            };
            let (w, b) = (w.map(|v| &v[..]), b.map(|v| &v[..]));
            close(&forward(&x, w, b), &want, 1e-12);
            let (w32, b32) = (w.map(to32), b.map(to32));
            let mut y = vec![0f32; x.len()];
            layer_norm(&to32(&x), n, w32.as_deref(), b32.as_deref(), eps, &mut y);
            if n > 1 {
                close(&y, &want, 5e-6);
            }

            fn grads<T: RowFloat>(x: &[T], n: usize, w: Option<&[T]>, dy: &[T]) -> [Vec<T>; 3] {
                let all = both(|| {
                    let mut out = [
                        vec![T::default(); x.len()],
                        vec![T::default(); n],
                        vec![T::default(); n],
                    ];
                    let [dx, dw, db] = &mut out;
                    let to = LayerNormGrad {
                        dx: Some(dx),
                        dweight: Some(dw),
                        dbias: Some(db),
                    };
                    layer_norm_grad(x, n, w, 1e-5, dy, to);
                    out.concat()
                });
                let (dx, rest) = all.split_at(x.len());
                [dx.to_vec(), rest[..n].to_vec(), rest[n..].to_vec()]
            }
            let [dx, dw, db] = grads(&x, n, w, &dy);
            if rows * n < 1000 {
                is_gradient(|x| forward(x, w, b), &x, &dy, &dx);
                let ones = vec![1.0; n];
                is_gradient(|w| forward(&x, Some(w), b), w.unwrap_or(&ones), &dy, &dw);
                let zeros = vec![0.0; n];
                is_gradient(|b| forward(&x, w, Some(b)), b.unwrap_or(&zeros), &dy, &db);
            }
            let [dx32, dw32, db32] = grads(&to32(&x), n, w32.as_deref(), &to32(&dy));
            if n > 1 {
                close(&dx32, &dx, 1e-5);
            }
            close(&dw32, &dw, 1e-5);
            close(&db32, &db, 1e-5);
        }
    }
}

#[test]
fn batch_norm_and_its_gradients() {
    for (batch, c, inner) in [
        (0, 3, 4),
        (1, 1, 1),
        (2, 3, 1),
        (64, 130, 1),
        (9, 5, 7),
        (4, 3, 16),
        (5, 2, 143),
        (700, 3, 1),
        (3, 2, 40_000),
        (40, 70, 50),
    ] {
        let len = batch * c * inner;
        let x: Vec<f64> = noise(len, 9)
            .iter()
            .enumerate()
            .map(|(i, v)| v + (i % 3) as f64 + 5.0)
            .collect();
        let dy = noise(len, 10);
        let (w, b) = (noise(c, 11), noise(c, 12));
        let channel = |i: usize| i / inner % c;
        let count = (batch * inner) as f64;
        let per_channel = |f: &dyn Fn(usize) -> f64| {
            let mut s = vec![0.0; c];
            (0..len).for_each(|i| s[channel(i)] += f(i));
            s.iter().map(|s| s / count).collect::<Vec<f64>>()
        };
        let mean = per_channel(&|i| x[i]);
        let var = per_channel(&|i| (x[i] - mean[channel(i)]).powi(2));

        fn stats<T: RowFloat>(x: &[T], c: usize, inner: usize) -> (Vec<T>, Vec<T>) {
            let all = both(|| {
                let (mut m, mut v) = (vec![T::default(); c], vec![T::default(); c]);
                batch_norm_stats(x, c, inner, &mut m, &mut v);
                [m, v].concat()
            });
            (all[..c].to_vec(), all[c..].to_vec())
        }
        let (m64, v64) = stats(&x, c, inner);
        close(&m64, &mean, 1e-12);
        close(&v64, &var, 1e-12);
        let (m32, v32) = stats(&to32(&x), c, inner);
        close(&m32, &mean, 2e-7);
        close(&v32, &var, 1e-6);

        let forward = |x: &[f64], w: &[f64], b: &[f64]| {
            let (m, v) = stats(x, c, inner);
            let scale: Vec<f64> = (0..c).map(|c| w[c] / (v[c] + 1e-5).sqrt()).collect();
            both(|| {
                let mut y = vec![0.0; len];
                batch_norm_apply(x, inner, &m, &scale, b, &mut y);
                y
            })
        };
        let want: Vec<f64> = (0..len)
            .map(|i| {
                let c = channel(i);
                (x[i] - mean[c]) / (var[c] + 1e-5).sqrt() * w[c] + b[c]
            })
            .collect();
        close(&forward(&x, &w, &b), &want, 1e-11);

        fn grads<T: RowFloat>(
            x: &[T],
            inner: usize,
            stats: (&[T], &[T]),
            w: Option<&[T]>,
            dy: &[T],
        ) -> [Vec<T>; 3] {
            let c = stats.0.len();
            let all = both(|| {
                let mut out = [
                    vec![T::default(); x.len()],
                    vec![T::default(); c],
                    vec![T::default(); c],
                ];
                let [dx, dw, db] = &mut out;
                let to = BatchNormGrad {
                    dx: Some(dx),
                    dweight: Some(dw),
                    dbias: Some(db),
                };
                batch_norm_grad(x, inner, stats.0, stats.1, w, dy, to);
                out.concat()
            });
            let (dx, rest) = all.split_at(x.len());
            [dx.to_vec(), rest[..c].to_vec(), rest[c..].to_vec()]
        }
        let rstd: Vec<f64> = v64.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
        let [dx, dw, db] = grads(&x, inner, (&m64, &rstd), Some(&w), &dy);
        if len < 10_000 && batch * inner > 1 {
            is_gradient(|x| forward(x, &w, &b), &x, &dy, &dx);
            is_gradient(|w| forward(&x, w, &b), &w, &dy, &dw);
            is_gradient(|b| forward(&x, &w, b), &b, &dy, &db);
        }
        let [dx32, dw32, db32] = grads(
            &to32(&x),
            inner,
            (&to32(&m64), &to32(&rstd)),
            Some(&to32(&w)),
            &to32(&dy),
        );
        // Over very few elements dx is a small difference of large numbers.
        if batch * inner >= 16 {
            close(&dx32, &dx, 1e-5);
            close(&dw32, &dw, 2e-5);
            close(&db32, &db, 2e-5);
        }
        let ones = vec![1.0; c];
        let [plain, ..] = grads(&x, inner, (&m64, &rstd), None, &dy);
        close(
            &plain,
            &grads(&x, inner, (&m64, &rstd), Some(&ones), &dy)[0],
            0.0,
        );
    }
}
