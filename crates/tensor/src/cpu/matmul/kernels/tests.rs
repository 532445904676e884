//! Each kernel of each set that this processor can run, on small whole numbers, of which sums are exact.

use super::*;
use crate::cpu::simd::detect;

/// Calls `check` with every set there is.
fn sets(check: impl Fn(&'static Kernels<f32>), check64: impl Fn(&'static Kernels<f64>)) {
    if detect() >= Level::Avx2 {
        check(&avx2::SINGLE);
        check64(&avx2::DOUBLE);
    }
    if detect() >= Level::Avx512 {
        check(&avx512::SINGLE);
        check64(&avx512::DOUBLE);
    }
}

/// A float that small numbers turn into.
trait Number: Copy + PartialEq + std::fmt::Debug + From<i8> + Into<f64> {}
impl Number for f32 {}
impl Number for f64 {}

fn number<T: Number>(i: usize) -> T {
    T::from((i * 7 % 11) as i8 - 5)
}
fn numbers<T: Number>(len: usize) -> Vec<T> {
    (0..len).map(number).collect()
}
fn same<T: Number>(found: T, wanted: f64, what: impl std::fmt::Debug) {
    assert_eq!(found.into(), wanted, "{what:?}");
}
/// What kernels must not write to.
fn guard<T: Number>() -> T {
    T::from(99)
}

fn tiles<T: Number>(set: &Kernels<T>) {
    let k = 5;
    for (v, by_row) in (1..=3).flat_map(|v| [(v, false), (v, true)]) {
        let list = if by_row { set.tile_by_row } else { set.tile }[v - 1];
        for (r, lanes, accumulate) in (1..=list.len())
            .flat_map(|r| (1..=set.lanes).map(move |lanes| (r, lanes)))
            .flat_map(|(r, lanes)| [(r, lanes, false), (r, lanes, true)])
        {
            let cols = (v - 1) * set.lanes + lanes;
            let (a, b) = (numbers::<T>(r * k), numbers::<T>(k * cols));
            let row = cols + 1;
            let mut c = vec![guard::<T>(); r * row];
            if accumulate {
                (0..r).for_each(|i| (0..cols).for_each(|j| c[i * row + j] = number(i + j)));
            }
            let tile = Tile {
                k,
                a: a.as_ptr(),
                a_step: if by_row { k } else { r } as isize,
                b: b.as_ptr(),
                b_step: cols as isize,
                c: c.as_mut_ptr(),
                c_step: row as isize,
                b_lanes: lanes,
                c_lanes: lanes,
                accumulate,
            };
            // SAFETY: buffers of the sizes described; the processor has the set.
            unsafe { list[r - 1](&tile) };
            for i in 0..r {
                for j in 0..cols {
                    let first = |l| if by_row { a[i * k + l] } else { a[l * r + i] };
                    let sum = (0..k).map(|l| first(l).into() * b[l * cols + j].into());
                    let before = if accumulate {
                        number::<T>(i + j).into()
                    } else {
                        0.0
                    };
                    let what = (v, by_row, r, lanes, accumulate, i, j);
                    same(c[i * row + j], before + sum.sum::<f64>(), what);
                }
                assert_eq!(
                    c[i * row + cols],
                    guard(),
                    "{v} {by_row} {r} {lanes}: beyond"
                );
            }
        }
    }
}

fn dots<T: Number>(set: &Kernels<T>) {
    let all = set.dots.iter().zip(1..);
    for (few, rows) in all.flat_map(|(list, few)| (1..=list.len()).map(move |rows| (few, rows))) {
        for k in [1, set.lanes, 3 * set.lanes - 1] {
            let (x, y) = (numbers::<T>(rows * k), numbers::<T>(few * k));
            let mut c = vec![guard::<T>(); rows * few];
            // SAFETY: buffers of the sizes described; the processor has the set.
            unsafe {
                (set.dots[few - 1][rows - 1])(&Dots {
                    k,
                    rows: x.as_ptr(),
                    row: k as isize,
                    vectors: y.as_ptr(),
                    c: c.as_mut_ptr(),
                    c_row: few as isize,
                    c_vector: 1,
                });
            }
            for (i, j) in (0..rows).flat_map(|i| (0..few).map(move |j| (i, j))) {
                let sum = (0..k).map(|l| x[i * k + l].into() * y[j * k + l].into());
                same(c[i * few + j], sum.sum(), (few, rows, k, i, j));
            }
        }
    }
}

fn images<T: Number>(set: &Kernels<T>) {
    let (k, offsets) = (3, [4usize, 0, 9]);
    for (step, v) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let list = set.image[step - 1][v - 1];
        let width = v * set.lanes;
        for r in 1..=list.len() {
            let (image, b) = (numbers::<T>(10 + r * step), numbers::<T>(k * width));
            let mut c = vec![guard::<T>(); r * width];
            // SAFETY: buffers of the sizes described; the processor has the set.
            unsafe {
                list[r - 1](&ImageTile {
                    k,
                    a: image.as_ptr(),
                    offsets: offsets.as_ptr(),
                    b: b.as_ptr(),
                    b_step: width,
                    c: c.as_mut_ptr(),
                    c_step: width,
                });
            }
            for (i, j) in (0..r).flat_map(|i| (0..width).map(move |j| (i, j))) {
                let from = |l: usize| image[i * step + offsets[l]].into();
                let sum = (0..k).map(|l| from(l) * b[l * width + j].into());
                same(c[i * width + j], sum.sum(), (step, v, r, i, j));
            }
        }
    }
}

fn planes<T: Number>(set: &Kernels<T>) {
    let (k, offsets) = (3, [4usize, 0, 9]);
    for (r, list) in set.plane.iter().enumerate().map(|(i, list)| (i + 1, list)) {
        for v in 1..=list.len() {
            // Runs of all lengths, a whole vector apart.
            let row = v * set.lanes;
            let run = |j: usize| Run {
                from: j * set.lanes,
                to: j * set.lanes,
                lanes: set.lanes - j % set.lanes,
            };
            let runs: Vec<Run> = (0..v).map(run).collect();
            let (image, w) = (numbers::<T>(row + 9), numbers::<T>(k * r));
            let mut c = vec![guard::<T>(); r * row];
            // SAFETY: buffers of the sizes described; the processor has the set.
            unsafe {
                list[v - 1](&PlaneTile {
                    k,
                    w: w.as_ptr(),
                    image: image.as_ptr(),
                    offsets: offsets.as_ptr(),
                    runs: runs.as_ptr(),
                    c: c.as_mut_ptr(),
                    c_step: row,
                });
            }
            for (i, at) in (0..r).flat_map(|i| (0..row).map(move |at| (i, at))) {
                let inside = at % set.lanes < runs[at / set.lanes].lanes;
                let from = |l: usize| image[at + offsets[l]].into();
                let sum = (0..k).map(|l| from(l) * w[l * r + i].into()).sum();
                let wanted = if inside { sum } else { guard::<T>().into() };
                same(c[i * row + at], wanted, (r, v, i, at));
            }
        }
    }
}

fn weights<T: Number>(set: &Kernels<T>) {
    let (size, steps) = ([2, 3], [7, 2]);
    let positions = size[0] * size[1];
    for v in [1, 2] {
        let (list, width) = (set.weight[v - 1], v * set.lanes);
        for (r, accumulate) in (1..=list.len()).flat_map(|r| [(r, false), (r, true)]) {
            let offsets: Vec<usize> = (0..r).map(|i| i * 3 % 5).collect();
            let (image, b) = (numbers::<T>(5 + 7 + 2 * 3), numbers::<T>(positions * width));
            let mut c = numbers::<T>(r * width);
            // SAFETY: buffers of the sizes described; the processor has the set.
            unsafe {
                list[r - 1](&WeightTile {
                    a: image.as_ptr(),
                    offsets: offsets.as_ptr(),
                    size,
                    steps,
                    b: b.as_ptr(),
                    b_step: width,
                    c: c.as_mut_ptr(),
                    c_step: width,
                    accumulate,
                });
            }
            for (i, j) in (0..r).flat_map(|i| (0..width).map(move |j| (i, j))) {
                let sum = (0..positions).map(|p| {
                    let at = p / size[1] * steps[0] + p % size[1] * steps[1];
                    image[offsets[i] + at].into() * b[p * width + j].into()
                });
                let at = i * width + j;
                let before = if accumulate {
                    number::<T>(at).into()
                } else {
                    0.0
                };
                same(c[at], before + sum.sum::<f64>(), (v, r, accumulate, i, j));
            }
        }
    }
}

fn transposes<T: Number>(set: &Kernels<T>) {
    for (lines, len) in (1..=16).flat_map(|lines| (1..=20).map(move |len| (lines, len))) {
        let x = numbers::<T>(lines * len);
        let row = lines + 1;
        let mut y = vec![guard::<T>(); len * row];
        // SAFETY: buffers of the sizes described; the processor has the set.
        unsafe {
            (set.transpose)(
                x.as_ptr(),
                len as isize,
                lines,
                len,
                y.as_mut_ptr(),
                row as isize,
            );
        }
        for l in 0..len {
            (0..lines).for_each(|i| assert_eq!(y[l * row + i], x[i * len + l], "{lines} {len}"));
            assert_eq!(y[l * row + lines], guard(), "{lines} {len}: beyond");
        }
    }
}

#[test]
fn tiles_are_products() {
    sets(tiles, tiles);
}
#[test]
fn dot_kernels_are_products() {
    sets(dots, dots);
}
#[test]
fn image_kernels_are_products() {
    sets(images, images);
}
#[test]
fn plane_kernels_are_products() {
    sets(planes, planes);
}
#[test]
fn weight_kernels_are_products() {
    sets(weights, weights);
}
#[test]
fn transposes_exchange_rows_and_columns() {
    sets(transposes, transposes);
}
