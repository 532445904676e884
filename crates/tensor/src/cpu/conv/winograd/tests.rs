use super::*;
use crate::cpu::After;
use crate::cpu::conv::tests::{few_bits, numbers, shape, terms};
use crate::cpu::matmul::Tile;
use crate::{Face, Precision};

/// Kernels of 16 lanes, as AVX-512 has them, that any processor runs.
static WIDE: Kernels<f32> = Kernels {
    lanes: 16,
    tile: [
        &[
            tile::<1, 1, false>,
            tile::<2, 1, false>,
            tile::<3, 1, false>,
        ],
        &[
            tile::<1, 2, false>,
            tile::<2, 2, false>,
            tile::<3, 2, false>,
        ],
        &[],
    ],
    tile_by_row: [
        &[tile::<1, 1, true>, tile::<2, 1, true>, tile::<3, 1, true>],
        &[tile::<1, 2, true>, tile::<2, 2, true>, tile::<3, 2, true>],
        &[],
    ],
    dots: [&[]; 4],
    image: [[&[]; 2]; 2],
    plane: &[],
    weight: [&[]; 2],
    transpose,
};

unsafe fn tile<const R: usize, const V: usize, const BY_ROW: bool>(t: &Tile<f32>) {
    for i in 0..R {
        for j in 0..(V - 1) * 16 + t.c_lanes {
            let mut sum = 0.0;
            for l in 0..t.k {
                let at = match BY_ROW {
                    true => i as isize * t.a_step + l as isize,
                    false => i as isize + l as isize * t.a_step,
                };
                if j < (V - 1) * 16 + t.b_lanes {
                    // SAFETY: what the caller's tile names.
                    sum += unsafe { *t.a.offset(at) * *t.b.offset(l as isize * t.b_step).add(j) };
                }
            }
            // SAFETY: as above.
            unsafe {
                let c = t.c.offset(i as isize * t.c_step).add(j);
                *c = if t.accumulate { *c + sum } else { sum };
            }
        }
    }
}

unsafe fn transpose(
    src: *const f32,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut f32,
    dst_step: isize,
) {
    for (i, l) in (0..lines as isize).flat_map(|i| (0..len as isize).map(move |l| (i, l))) {
        // SAFETY: what the caller names.
        unsafe { *dst.offset(l * dst_step + i) = *src.offset(i * src_step + l) };
    }
}

fn shapes() -> Vec<ConvShape> {
    let mut all = Vec::new();
    for (batch, channels, input) in [
        (2, [16, 24], [8, 8]),
        (3, [40, 16], [5, 9]),
        (1, [24, 88], [3, 4]),
        (9, [32, 160], [4, 4]),
        (1, [16, 16], [1, 40]),
        (1, [16, 16], [3, 530]),
    ] {
        for padding in [[(0, 0); 2], [(1, 1); 2], [(0, 2), (3, 1)], [(4, 4), (4, 4)]] {
            let s = ConvShape {
                padding,
                ..shape(batch, channels, input, [3, 3])
            };
            if s.output().iter().all(|&n| n > 0) {
                all.push(s);
            }
        }
    }
    all.push(ConvShape {
        groups: 3,
        padding: [(1, 1); 2],
        ..shape(2, [48, 72], [7, 6], [3, 3])
    });
    all
}

/// What the three faces make of input, weights and output's gradient.
fn all_faces(set: &'static Kernels<f32>, s: &ConvShape, operands: &[Vec<f32>; 3]) -> [Vec<f32>; 3] {
    let [x, w, dy] = operands;
    let mut got = [dy, x, w].map(|v| vec![77f32; v.len()]);
    let [to_y, to_dx, to_dw] = &mut got;
    // SAFETY: the vectors have the sizes of the shape.
    unsafe {
        let output = Job::with(set, Face::Output, s);
        assert!(output.run(
            x.as_ptr(),
            w.as_ptr(),
            None,
            to_y.as_mut_ptr(),
            After::none()
        ));
        let input_grad = Job::with(set, Face::InputGrad, s);
        assert!(input_grad.run(
            dy.as_ptr(),
            w.as_ptr(),
            None,
            to_dx.as_mut_ptr(),
            After::none()
        ));
        let weight_grad = SumsJob::with(set, s);
        assert!(weight_grad.run(x.as_ptr(), dy.as_ptr(), to_dw.as_mut_ptr(), After::none()));
    }
    got
}

#[test]
fn vectors_of_sixteen_agree_with_the_sum_over_all_terms() {
    for s in shapes() {
        let (operands, want) = few_bits(&s);
        let got = all_faces(&WIDE, &s, &operands);
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() <= 1e-4, "{s:?}: {got} not {want}");
        }
    }
}

/// Against the sums in `f64`, beside the sums as they are written, in `f32`.
#[test]
fn the_error_is_not_larger_than_that_of_plain_sums() {
    let s = ConvShape {
        padding: [(1, 1); 2],
        ..shape(8, [64, 64], [8, 8], [3, 3])
    };
    let Some(set) = kernels(&s) else {
        return;
    };
    assert_eq!(s.precision, Precision::Highest);
    let [x, w, dy] = s.sizes();
    // Many bits, and none of them zero by design.
    let [x, w, dy] = [(x, 1), (w, 2), (dy, 3)].map(|(len, seed)| {
        let (coarse, fine) = (numbers(len, seed), numbers(len, seed + 10));
        (0..len)
            .map(|i| (coarse[i] + fine[i] / 301.0) as f32)
            .collect::<Vec<f32>>()
    });
    let mut exact = [&dy, &x, &w].map(|v| vec![0f64; v.len()]);
    let mut plain = [&dy, &x, &w].map(|v| vec![0f32; v.len()]);
    terms(&s, |i, j, p| {
        for (face, at, a, b) in [(0, p, x[i], w[j]), (1, i, dy[p], w[j]), (2, j, x[i], dy[p])] {
            exact[face][at] += a as f64 * b as f64;
            plain[face][at] += a * b;
        }
    });
    let got = all_faces(set, &s, &[x, w, dy]);
    for face in 0..3 {
        let error = |of: &[f32]| {
            let errors = of
                .iter()
                .zip(&exact[face])
                .map(|(&a, &b)| (a as f64 - b).powi(2));
            errors.sum::<f64>().sqrt()
        };
        let (got, plain) = (error(&got[face]), error(&plain[face]));
        assert!(got <= plain, "face {face}: {got} against {plain}");
        assert!(got > 0.0);
    }
}

#[test]
fn uneven_numbers_are_told() {
    let even = transforms::even;
    assert!(even(&[]) && even(&[0.0; 70]) && even(&[1e-30, 2e-30, 0.0]));
    for (odd, is_even) in [
        (1e9, true),
        (-1e9, true),
        (1e13, false),
        (-1e30, false),
        (f32::MAX, false),
        (f32::INFINITY, false),
        (f32::NEG_INFINITY, false),
        (f32::NAN, false),
    ] {
        for (at, step) in [(0, 1000), (500, 1000), (999, 1000), (0, 100)] {
            let mut x = vec![1f32; 1000];
            // Zeros make nothing even.
            x[200..700].fill(0.0);
            x.iter_mut().skip(at).step_by(step).for_each(|x| *x = odd);
            assert_eq!(even(&x), is_even, "{odd} at {at}");
        }
    }
}

/// What an output does not see must not show in it: neither a large element of the kernel over zeros,
/// nor anything under an element that is zero.
#[test]
fn kernels_of_uneven_elements_are_as_in_the_sums_as_written() {
    let s = ConvShape {
        padding: [(1, 1); 2],
        ..shape(1, [16, 16], [8, 8], [3, 3])
    };
    let Some(job) = Job::new(Face::Output, &s) else {
        return;
    };
    let [x, w, _] = s.sizes();
    let mut x: Vec<f32> = numbers(x, 1).iter().map(|&x| x as f32 * 0.7).collect();
    let even: Vec<f32> = numbers(w, 2)
        .iter()
        .map(|&x| x as f32 * 0.3 + 0.1)
        .collect();
    let run = |x: &[f32], w: &[f32]| {
        let mut y = vec![0f32; 16 * 64];
        // SAFETY: the vectors have the sizes of the shape.
        unsafe { job.run(x.as_ptr(), w.as_ptr(), None, y.as_mut_ptr(), After::none()) }
    };
    assert!(run(&x, &even));
    for center in [0.0, 1e3, 1e6, -1e8, 1e30, f32::NAN] {
        let mut w = even.clone();
        w.iter_mut().skip(4).step_by(TAPS).for_each(|w| *w = center);
        assert!(!run(&x, &w), "{center}");
    }
    // An input that is out of proportion to others is no reason: kernels are even.
    x[100] = 1e6;
    assert!(run(&x, &even));
}
