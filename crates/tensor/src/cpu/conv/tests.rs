use super::*;
use crate::cpu::runs::told_once;

/// Numbers in [-1, 1) with few significant bits.
pub fn numbers(len: usize, seed: u64) -> Vec<f64> {
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

/// Runs one face in a way of `f32` whether that pays or not; `None` if the numbers do not suit it.
#[cfg(target_arch = "x86_64")]
fn by_unit(unit: &Unit, face: Face, s: &ConvShape, a: &[f32], b: &[f32]) -> Option<Vec<f32>> {
    let len = sizes(face, s)[2];
    let mut out = vec![77.0; len];
    let done = collected(len, |after| {
        // SAFETY: the vectors have the sizes of the shape.
        unsafe { unit.run(a.as_ptr(), b.as_ptr(), None, out.as_mut_ptr(), after) }
    });
    done.then_some(out)
}

/// Calls `f` with an `after` and asserts that it is told of everything once, if `f` says so.
fn collected(len: usize, f: impl FnOnce(After<'_>) -> bool) -> bool {
    let (done, end) = told_once(f);
    assert_eq!(end, if done { len } else { 0 });
    done
}

/// Calls `f(x index, w index, y index)` for every term of the convolution.
pub fn terms(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = s.output();
    let (ins, outs) = (s.group_in(), s.group_out());
    for n in 0..s.batch {
        for o in 0..s.out_channels {
            for c in 0..ins {
                for (oy, ox) in (0..oh * ow).map(|p| (p / ow, p % ow)) {
                    for (ky, kx) in
                        (0..s.kernel[0] * s.kernel[1]).map(|t| (t / s.kernel[1], t % s.kernel[1]))
                    {
                        let y = (oy * s.stride[0] + ky * s.dilation[0]).checked_sub(s.padding[0].0);
                        let x = (ox * s.stride[1] + kx * s.dilation[1]).checked_sub(s.padding[1].0);
                        let (Some(y), Some(x)) = (y, x) else { continue };
                        if y < s.input[0] && x < s.input[1] {
                            let channel = n * s.in_channels + o / outs * ins + c;
                            f(
                                (channel * s.input[0] + y) * s.input[1] + x,
                                ((o * ins + c) * s.kernel[0] + ky) * s.kernel[1] + kx,
                                ((n * s.out_channels + o) * oh + oy) * ow + ox,
                            );
                        }
                    }
                }
            }
        }
    }
}

fn run<T: ConvScalar>(face: Face, s: &ConvShape, a: &[T], b: &[T]) -> Vec<T> {
    let len = sizes(face, s)[2];
    let mut out = vec![T::from_f64(77.0); len];
    collected(len, |after| {
        // SAFETY: the vectors have the sizes of the shape.
        unsafe { conv(face, s, a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), after) };
        true
    });
    out
}

fn check<T: ConvScalar>(s: &ConvShape, tol: f64) {
    let [xl, wl, yl] = s.sizes();
    let (x, w, dy) = (numbers(xl, 1), numbers(wl, 2), numbers(yl, 3));
    let typed = |v: &[f64]| v.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
    let mut want = [vec![0.0; yl], vec![0.0; xl], vec![0.0; wl]];
    let mut size = want.clone();
    terms(s, |i, j, p| {
        for (at, face, t) in [
            (p, 0, x[i] * w[j]),
            (i, 1, dy[p] * w[j]),
            (j, 2, x[i] * dy[p]),
        ] {
            want[face][at] += t;
            size[face][at] += t.abs();
        }
    });
    let (x, w, dy) = (typed(&x), typed(&w), typed(&dy));
    let got = [
        run(Face::Output, s, &x, &w),
        run(Face::InputGrad, s, &dy, &w),
        run(Face::WeightGrad, s, &x, &dy),
    ];
    for face in 0..3 {
        for (i, g) in got[face].iter().enumerate() {
            let (g, want) = (g.to_f64(), want[face][i]);
            let bound = tol * (size[face][i] + want.abs());
            assert!(
                (g - want).abs() <= bound,
                "{:?} face {face} {s:?} at {i}: {g} not {want}",
                T::DTYPE
            );
        }
    }
}

/// Input, weights and output's gradient of so few bits that all sums are exact, and what the three
/// faces make of them.
#[cfg(target_arch = "x86_64")]
pub fn few_bits(s: &ConvShape) -> ([Vec<f32>; 3], [Vec<f32>; 3]) {
    let [x, w, dy] = s.sizes();
    let [x, w, dy] = [(x, 1), (w, 2), (dy, 3)].map(|(len, seed)| {
        let all = numbers(len, seed);
        all.iter().map(|&x| x as f32).collect::<Vec<f32>>()
    });
    let mut want = [&dy, &x, &w].map(|v| vec![0.0; v.len()]);
    terms(s, |i, j, p| {
        want[0][p] += x[i] * w[j];
        want[1][i] += dy[p] * w[j];
        want[2][j] += x[i] * dy[p];
    });
    ([x, w, dy], want)
}

/// At every precision: the numbers have so few bits that all are exact.
#[cfg(target_arch = "x86_64")]
fn check_ways(s: &ConvShape) -> usize {
    let ([x, w, dy], want) = few_bits(s);
    let mut done = 0;
    for precision in Precision::ALL {
        let s = ConvShape { precision, ..*s };
        for (face, a, b, want) in [
            (Face::Output, &x, &w, &want[0]),
            (Face::InputGrad, &dy, &w, &want[1]),
            (Face::WeightGrad, &x, &dy, &want[2]),
        ] {
            for got in Unit::all(face, &s).filter_map(|u| by_unit(&u, face, &s, a, b)) {
                done += 1;
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    assert!((g - w).abs() <= 1e-4, "{face:?} {s:?} at {i}: {g} not {w}");
                }
            }
        }
    }
    done
}

#[test]
#[cfg(target_arch = "x86_64")]
fn all_ways_agree_with_the_sum_over_all_terms() {
    let mut done = 0;
    for (batch, channels, input, kernel) in [
        (2, [16, 16], [8, 8], [3, 3]),
        (1, [33, 17], [6, 5], [2, 4]),
        (9, [40, 8], [1, 50], [1, 5]),
        (5, [64, 70], [4, 4], [3, 3]),
        (3, [9, 20], [5, 40], [1, 1]),
        (1, [16, 20], [40, 31], [3, 3]),
        (2, [31, 50], [13, 4], [5, 1]),
        (2, [8, 8], [1, 1], [1, 1]),
        (3, [24, 40], [9, 6], [3, 3]),
        (2, [136, 64], [3, 21], [3, 3]),
    ] {
        let base = shape(batch, channels, input, kernel);
        for padding in [[(0, 0); 2], [(1, 1); 2], [(0, 2), (3, 1)], [(4, 4), (4, 4)]] {
            for stride in [[1, 1], [2, 2], [2, 3], [7, 1]] {
                for dilation in [[1, 1], [2, 2], [1, 3]] {
                    let s = ConvShape {
                        padding,
                        stride,
                        dilation,
                        ..base
                    };
                    if s.output().iter().all(|&n| n > 0) {
                        done += check_ways(&s);
                    }
                }
            }
        }
    }
    for stride in [[1, 1], [2, 2]] {
        done += check_ways(&ConvShape {
            groups: 3,
            stride,
            padding: [(1, 1); 2],
            ..shape(5, [48, 36], [8, 7], [3, 3])
        });
    }
    let least = match crate::cpu::unit::kind() {
        Some(_) => 1000,
        None if level() > Level::Baseline => 50,
        None => 0,
    };
    assert!(done >= least, "{done}");
}

pub fn shape(
    batch: usize,
    channels: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
) -> ConvShape {
    ConvShape {
        batch,
        in_channels: channels[0],
        out_channels: channels[1],
        groups: 1,
        input,
        kernel,
        stride: [1, 1],
        padding: [(0, 0); 2],
        dilation: [1, 1],
        precision: Precision::Highest,
    }
}

fn odd_shapes() -> Vec<ConvShape> {
    let mut all = Vec::new();
    for (batch, channels, input, kernel) in [
        (2, [3, 5], [7, 9], [3, 3]),
        (1, [1, 1], [1, 1], [1, 1]),
        (3, [2, 20], [5, 40], [1, 1]),
        (1, [17, 33], [6, 5], [2, 4]),
        (9, [4, 2], [1, 50], [1, 5]),
        (2, [6, 6], [13, 4], [5, 1]),
    ] {
        let base = shape(batch, channels, input, kernel);
        all.push(base);
        for padding in [[(1, 1), (1, 1)], [(0, 2), (3, 1)], [(4, 4), (4, 4)]] {
            all.push(ConvShape { padding, ..base });
            all.push(ConvShape {
                padding,
                stride: [2, 3],
                ..base
            });
            all.push(ConvShape {
                padding,
                dilation: [2, 2],
                ..base
            });
            all.push(ConvShape {
                padding,
                stride: [2, 1],
                dilation: [1, 3],
                ..base
            });
        }
    }
    for (groups, channels) in [(2, [4, 6]), (3, [3, 3]), (4, [4, 8]), (5, [10, 5])] {
        for stride in [[1, 1], [2, 2]] {
            all.push(ConvShape {
                groups,
                stride,
                padding: [(1, 1); 2],
                ..shape(2, channels, [8, 7], [3, 3])
            });
        }
    }
    all
}

#[test]
fn agrees_with_the_sum_over_all_terms() {
    for s in odd_shapes() {
        check::<f32>(&s, 1e-5);
        check::<f64>(&s, 1e-13);
    }
}

#[test]
fn usual_layers() {
    let same = [(1, 1); 2];
    check::<f32>(
        &ConvShape {
            padding: same,
            ..shape(4, [1, 32], [28, 28], [3, 3])
        },
        1e-5,
    );
    check::<f32>(
        &ConvShape {
            padding: same,
            ..shape(3, [32, 64], [14, 14], [3, 3])
        },
        1e-5,
    );
    check::<f32>(
        &ConvShape {
            padding: same,
            stride: [2, 2],
            ..shape(2, [16, 32], [16, 16], [3, 3])
        },
        1e-5,
    );
    check::<f32>(
        &ConvShape {
            stride: [2, 2],
            ..shape(2, [16, 32], [8, 8], [1, 1])
        },
        1e-5,
    );
    check::<f32>(
        &ConvShape {
            padding: same,
            groups: 24,
            ..shape(2, [24, 24], [14, 14], [3, 3])
        },
        1e-5,
    );
    for stride in [[1, 1], [2, 2]] {
        check::<f32>(
            &ConvShape {
                padding: [(2, 2), (3, 1)],
                groups: 6,
                stride,
                ..shape(3, [6, 12], [9, 37], [5, 5])
            },
            1e-5,
        );
    }
    check::<f32>(
        &ConvShape {
            padding: [(3, 3); 2],
            stride: [2, 2],
            ..shape(1, [3, 16], [32, 32], [7, 7])
        },
        1e-5,
    );
    check::<f32>(&shape(2, [80, 140], [4, 4], [3, 3]), 1e-5);
    check::<f32>(&shape(40, [64, 8], [5, 5], [1, 1]), 1e-5);
    check::<bf16>(
        &ConvShape {
            padding: same,
            ..shape(2, [3, 8], [9, 9], [3, 3])
        },
        8e-3,
    );
    check::<f16>(
        &ConvShape {
            padding: same,
            ..shape(2, [3, 8], [9, 9], [3, 3])
        },
        1e-3,
    );
}

/// One image: kernels of one element as products, more weights than inputs cut by channels.
#[test]
fn single_images() {
    for stride in [[1, 1], [2, 2], [2, 3]] {
        let s = ConvShape {
            stride,
            ..shape(1, [16, 32], [9, 8], [1, 1])
        };
        check::<f32>(&s, 1e-5);
        check::<f64>(&s, 1e-13);
    }
    for (channels, input) in [
        ([40, 80], [7, 7]),
        ([70, 24], [10, 9]),
        ([30, 150], [4, 12]),
    ] {
        let s = ConvShape {
            padding: [(1, 1); 2],
            ..shape(1, channels, input, [3, 3])
        };
        check::<f32>(&s, 1e-5);
        check::<f64>(&s, 1e-13);
    }
}

/// Weights that are packed once and kept give the same bits as those packed anew.
#[test]
fn kept_weights_agree_with_packed_ones() {
    let padded = |s: ConvShape| ConvShape {
        padding: [(1, 1); 2],
        ..s
    };
    let shapes = [
        padded(shape(1, [40, 80], [7, 7], [3, 3])),
        padded(shape(9, [16, 24], [9, 9], [3, 3])),
        padded(ConvShape {
            groups: 3,
            ..shape(2, [48, 36], [8, 7], [3, 3])
        }),
        ConvShape {
            stride: [2, 2],
            ..shape(3, [24, 40], [9, 8], [3, 3])
        },
        shape(2, [16, 16], [9, 9], [1, 1]),
        shape(1, [16, 32], [9, 8], [1, 1]),
    ];
    for (s, precision) in shapes.iter().flat_map(|s| Precision::ALL.map(|p| (s, p))) {
        let s = ConvShape { precision, ..*s };
        for face in [Face::Output, Face::InputGrad] {
            let [al, bl, len] = sizes(face, &s);
            let (a, b) = (full_numbers(al, 5), full_numbers(bl, 6));
            let weights = Storage::from_slice(&b);
            let plan = Planned::new(DType::F32, face, &s);
            let run = |constant| {
                let mut out = vec![0f32; len];
                let (b, to) = (weights.as_ptr().cast::<f32>(), out.as_mut_ptr());
                // SAFETY: all have the sizes of the shape.
                unsafe { planned(&plan, a.as_ptr(), b, constant, to, After::none()) };
                out
            };
            let wanted = run(None);
            for time in 1..=3 {
                // SAFETY: nothing writes to the weights.
                let constant = Some(unsafe { Constant::new(&weights) });
                assert!(run(constant) == wanted, "{face:?} {s:?}, time {time}");
            }
        }
    }
}

#[test]
fn empty_sizes() {
    let base = shape(2, [3, 5], [7, 9], [3, 3]);
    for s in [
        ConvShape { batch: 0, ..base },
        ConvShape {
            out_channels: 0,
            ..base
        },
        ConvShape {
            in_channels: 0,
            ..base
        },
        ConvShape {
            input: [2, 9],
            ..base
        },
    ] {
        check::<f32>(&s, 0.0);
    }
}

#[test]
fn the_same_bits_at_any_thread_count() {
    for s in [
        ConvShape {
            padding: [(1, 1); 2],
            ..shape(7, [5, 32], [14, 14], [3, 3])
        },
        ConvShape {
            padding: [(1, 1); 2],
            stride: [2, 2],
            ..shape(1, [40, 64], [28, 28], [3, 3])
        },
        shape(19, [64, 30], [6, 6], [1, 1]),
    ] {
        let [x, w, y] = s.sizes().map(|len| {
            numbers(len, 4)
                .iter()
                .map(|&v| v as f32 * 1.1)
                .collect::<Vec<f32>>()
        });
        for (face, a, b) in [
            (Face::Output, &x, &w),
            (Face::InputGrad, &y, &w),
            (Face::WeightGrad, &x, &y),
        ] {
            let with = |threads| {
                pool::set_threads(threads);
                run(face, &s, a, b)
            };
            let (one, two) = (with(1), with(2));
            assert!(
                one.iter()
                    .zip(&two)
                    .all(|(p, q)| p.to_bits() == q.to_bits()),
                "{face:?}"
            );
        }
    }
}

/// Numbers of many sizes with all 24 bits in use.
#[cfg(target_arch = "x86_64")]
fn full_numbers(len: usize, seed: u64) -> Vec<f32> {
    let coarse = numbers(len, seed);
    let fine = numbers(len, seed + 100);
    let power = numbers(len, seed + 200);
    (0..len)
        .map(|i| ((coarse[i] + fine[i] / 256.0 + 1e-5) * 2f64.powi((power[i] * 4.0) as i32)) as f32)
        .collect()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn all_ways_are_as_exact_as_the_precision() {
    for s in [
        ConvShape {
            padding: [(1, 1); 2],
            ..shape(5, [40, 32], [9, 9], [3, 3])
        },
        ConvShape {
            padding: [(1, 1); 2],
            stride: [2, 2],
            ..shape(3, [32, 48], [10, 11], [3, 3])
        },
    ] {
        let [xl, wl, yl] = s.sizes();
        let (x, w, dy) = (
            full_numbers(xl, 1),
            full_numbers(wl, 2),
            full_numbers(yl, 3),
        );
        let mut want = [vec![0.0; yl], vec![0.0; xl], vec![0.0; wl]];
        let mut size = want.clone();
        terms(&s, |i, j, p| {
            let (x, w, dy) = (x[i] as f64, w[j] as f64, dy[p] as f64);
            for (face, at, t) in [(0, p, x * w), (1, i, dy * w), (2, j, x * dy)] {
                want[face][at] += t;
                size[face][at] += t.abs();
            }
        });
        for (precision, tol) in [
            (Precision::Highest, 4e-7),
            (Precision::High, 2e-5),
            (Precision::Medium, 6e-3),
        ] {
            let s = ConvShape { precision, ..s };
            for (i, (face, a, b)) in [
                (Face::Output, &x, &w),
                (Face::InputGrad, &dy, &w),
                (Face::WeightGrad, &x, &dy),
            ]
            .into_iter()
            .enumerate()
            {
                for unit in Unit::all(face, &s) {
                    let Some(got) = by_unit(&unit, face, &s, a, b) else {
                        continue;
                    };
                    for (at, &g) in got.iter().enumerate() {
                        let error = (g as f64 - want[i][at]).abs();
                        let bound = tol * size[i][at];
                        assert!(
                            error <= bound,
                            "{face:?} {precision} at {at}: {error} over {bound}"
                        );
                    }
                }
            }
        }
    }
}

/// Where numbers do not suit a way the sums are computed as they are written, so that the results are
/// the same.
#[test]
#[cfg(target_arch = "x86_64")]
fn infinite_huge_and_tiny_numbers_are_as_in_the_sums_as_written() {
    let s = ConvShape {
        padding: [(1, 1); 2],
        ..shape(6, [32, 24], [7, 7], [3, 3])
    };
    let [xl, wl, yl] = s.sizes();
    for odd in [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        3e38,
        -2e38,
        1e-36,
    ] {
        for precision in [Precision::Highest, Precision::High] {
            let s = ConvShape { precision, ..s };
            for (face, la, lb) in [
                (Face::Output, xl, wl),
                (Face::InputGrad, yl, wl),
                (Face::WeightGrad, xl, yl),
            ] {
                for in_first in [true, false] {
                    let (mut a, mut b) = (full_numbers(la, 5), full_numbers(lb, 6));
                    let side = if in_first { &mut a } else { &mut b };
                    if odd == 1e-36 {
                        side.iter_mut().for_each(|x| *x *= 1e-36);
                    } else {
                        let middle = side.len() / 2;
                        side[middle] = odd;
                    }
                    let mut want = vec![0f32; sizes(face, &s)[2]];
                    // SAFETY: the vectors have the sizes of the shape.
                    unsafe {
                        faces::run(
                            face,
                            &s,
                            a.as_ptr(),
                            b.as_ptr(),
                            None,
                            want.as_mut_ptr(),
                            After::none(),
                        )
                    };
                    // Terms have this size.
                    let scale = if odd == 1e-36 { 1e-34 } else { 100.0 };
                    // What a way leaves undone, `conv` gives to the vector unit.
                    for got in Unit::all(face, &s).filter_map(|u| by_unit(&u, face, &s, &a, &b)) {
                        for (g, w) in got.iter().zip(&want) {
                            let same = g == w || g.is_nan() && w.is_nan();
                            // Images without an odd number are computed in that way.
                            let close = (g - w).abs() <= 1e-4 * (scale + w.abs());
                            assert!(same || close, "{face:?} {odd}: {g} not {w}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn all_ways_give_the_same_bits_at_any_thread_count() {
    for s in [
        ConvShape {
            padding: [(1, 1); 2],
            ..shape(7, [48, 40], [14, 14], [3, 3])
        },
        ConvShape {
            padding: [(1, 1); 2],
            stride: [2, 2],
            ..shape(1, [40, 64], [28, 28], [3, 3])
        },
        ConvShape {
            padding: [(1, 1); 2],
            ..shape(4, [200, 160], [6, 6], [3, 3])
        },
    ] {
        let [xl, wl, yl] = s.sizes();
        let (x, w, y) = (
            full_numbers(xl, 1),
            full_numbers(wl, 2),
            full_numbers(yl, 3),
        );
        for precision in Precision::ALL {
            let s = ConvShape { precision, ..s };
            for (face, a, b) in [
                (Face::Output, &x, &w),
                (Face::InputGrad, &y, &w),
                (Face::WeightGrad, &x, &y),
            ] {
                for unit in Unit::all(face, &s) {
                    let with = |threads| {
                        pool::set_threads(threads);
                        by_unit(&unit, face, &s, a, b)
                    };
                    let Some(one) = with(1) else { continue };
                    for threads in [2, 3] {
                        let more = with(threads).unwrap();
                        let same = one
                            .iter()
                            .zip(&more)
                            .all(|(p, q)| p.to_bits() == q.to_bits());
                        assert!(same, "{face:?} {threads} threads");
                    }
                }
            }
        }
    }
}
