//! Speed of the product, convolution and pooling kernels, best of many runs.
//!
//! `cargo run --release -p fornax-tensor --example kernels [FILTER]`

use fornax_tensor::cpu::conv::{ConvShape, conv};
use fornax_tensor::cpu::matmul::{Dims, Operand, matmul};
use fornax_tensor::cpu::pool;
use fornax_tensor::cpu::pool2d::{Pooling, pool2d_dyn};
use fornax_tensor::{DType, Face, Precision, Window};
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

/// Seconds: of the wall clock or, on a machine that others use too, of this thread's processor time
/// (`FORNAX_CPU_TIME=1`; then only the figures for one thread mean something).
fn now() -> f64 {
    static CPU: OnceLock<bool> = OnceLock::new();
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    #[cfg(target_os = "linux")]
    if *CPU.get_or_init(|| std::env::var_os("FORNAX_CPU_TIME").is_some()) {
        let mut t = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes to a local.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        return t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9;
    }
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The least time of one call in seconds, over at least 0.2 s and 10 calls.
fn best(mut f: impl FnMut()) -> f64 {
    let begin = now();
    let mut least = f64::MAX;
    let mut calls = 0;
    while calls < 10 || now() - begin < 0.2 {
        let start = now();
        f();
        least = least.min(now() - start);
        calls += 1;
    }
    least
}

/// Multiply-adds that depend on nothing but registers: the ceiling of one core, in GFLOP/s.
fn ceiling() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn spin(n: usize) -> f32 {
            let x = _mm512_set1_ps(black_box(0.5));
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [x; 8];
            for _ in 0..n {
                a = _mm512_fmadd_ps(a, x, x);
                b = _mm512_fmadd_ps(b, x, x);
                c = _mm512_fmadd_ps(c, x, x);
                d = _mm512_fmadd_ps(d, x, x);
                e = _mm512_fmadd_ps(e, x, x);
                f = _mm512_fmadd_ps(f, x, x);
                g = _mm512_fmadd_ps(g, x, x);
                h = _mm512_fmadd_ps(h, x, x);
            }
            let sum = [b, c, d, e, f, g, h]
                .iter()
                .fold(a, |s, &v| _mm512_add_ps(s, v));
            _mm512_reduce_add_ps(sum)
        }
        let t = best(|| {
            // SAFETY: the feature has been detected.
            black_box(unsafe { spin(100_000) });
        });
        return 100_000.0 * 8.0 * 32.0 / t / 1e9;
    }
    f64::NAN
}

fn filled(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
        .collect()
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    let cores = pool::threads();
    let peak = ceiling();
    println!("ceiling: {peak:.0} GFLOP/s a core, {cores} threads");
    println!(
        "{:34} {:>9} {:>9} {:>7} {:>9}",
        "", "1 thread", "threads", "% peak", "us"
    );
    let report = |name: &str, flop: f64, f: &dyn Fn()| {
        if !wanted(name) {
            return;
        }
        pool::set_threads(1);
        let one = best(f);
        pool::set_threads(cores);
        let all = best(f);
        println!(
            "{name:34} {:9.1} {:9.1} {:6.0}% {:9.1}",
            flop / one / 1e9,
            flop / all / 1e9,
            flop / all / 1e9 / (peak * cores as f64) * 100.0,
            all * 1e6
        );
    };

    // `t` after an operand: stored transposed, as a linear layer's weight is in the forward pass.
    for (m, k, n, ta, tb, what) in [
        (64, 784, 256, false, true, "mlp_b64 forward"),
        (64, 256, 128, false, true, "mlp_b64 forward"),
        (64, 128, 10, false, true, "mlp_b64 forward"),
        (256, 64, 784, true, false, "mlp_b64 dW"),
        (784, 64, 256, true, false, "mlp_b64 dW"),
        (128, 64, 256, true, false, "mlp_b64 dW"),
        (10, 64, 128, true, false, "mlp_b64 dW"),
        (64, 256, 784, false, false, "mlp_b64 dx"),
        (64, 128, 256, false, false, "mlp_b64 dx"),
        (64, 10, 128, false, false, "mlp_b64 dx"),
        (512, 784, 1024, false, true, "mlp_b512 forward"),
        (512, 1024, 1024, false, true, "mlp_b512 forward"),
        (512, 1024, 10, false, true, "mlp_b512 forward"),
        (1024, 512, 784, true, false, "mlp_b512 dW"),
        (1024, 512, 1024, true, false, "mlp_b512 dW"),
        (10, 512, 1024, true, false, "mlp_b512 dW"),
        (512, 1024, 1024, false, false, "mlp_b512 dx"),
        (512, 10, 1024, false, false, "mlp_b512 dx"),
        (64, 3136, 128, false, true, "lenet fc forward"),
        (128, 64, 3136, true, false, "lenet fc dW"),
        (64, 128, 3136, false, false, "lenet fc dx"),
        (128, 128, 128, false, false, "square"),
        (256, 256, 256, false, false, "square"),
        (512, 512, 512, false, false, "square"),
        (1024, 1024, 1024, false, false, "square"),
        (2048, 2048, 2048, false, false, "square"),
        (1, 4096, 4096, false, true, "vector"),
        (1, 4096, 4096, false, false, "vector"),
        (4096, 4096, 1, false, false, "vector"),
        (32, 32, 32, false, false, "tiny"),
        (8, 8, 8, false, false, "tiny"),
    ] {
        let (a, b) = (filled(m * k), filled(k * n));
        let out = vec![0f32; m * n];
        let name = format!(
            "{m}x{k}{} {k}x{n}{} {what}",
            if ta { "t" } else { "" },
            if tb { "t" } else { "" }
        );
        let dims = Dims {
            batch: &[],
            m,
            n,
            k,
            precision: Precision::current(),
        };
        let strides =
            |t: bool, r: usize, c: usize| if t { (1, r as isize) } else { (c as isize, 1) };
        let (ar, ac) = strides(ta, m, k);
        let (br, bc) = strides(tb, k, n);
        report(&name, 2.0 * (m * n * k) as f64, &|| {
            let op = |x: &[f32], row, col| Operand {
                ptr: x.as_ptr(),
                batch: &[],
                row,
                col,
            };
            let after = |r| {
                black_box(r);
            };
            // SAFETY: the vectors have the sizes of the operands; nothing else reads `out`.
            unsafe {
                let out = out.as_ptr().cast_mut();
                matmul(dims, op(&a, ar, ac), op(&b, br, bc), out, &after);
            }
        });
        if std::env::var_os("FORNAX_COMPARE").is_some() {
            // What the `gemm` crate makes of it, with its own threads.
            report(&format!("{name} (gemm)"), 2.0 * (m * n * k) as f64, &|| {
                // SAFETY: as above.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        out.as_ptr().cast_mut(),
                        1,
                        n as isize,
                        false,
                        a.as_ptr(),
                        ac,
                        ar,
                        b.as_ptr(),
                        bc,
                        br,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            });
        }
    }

    // Max pooling moves bytes rather than computing: read "G" as GB/s.
    for (planes, size) in [(64 * 32, 28), (64 * 64, 14)] {
        let x = filled(planes * size * size);
        let y = filled(planes * size * size / 4);
        let window = Window {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [0, 0],
            count_include_pad: true,
        };
        for (what, out) in [(Pooling::Max, &y), (Pooling::MaxGrad, &x)] {
            let grad = what == Pooling::MaxGrad;
            let bytes = 4 * (x.len() + y.len() + if grad { x.len() } else { 0 });
            let mut out = out.clone();
            let out = out.as_mut_ptr();
            report(
                &format!("{planes} planes {size}^2 {what:?}"),
                bytes as f64,
                &|| {
                    let (x, y) = (x.as_ptr().cast(), y.as_ptr().cast());
                    let input = [size, size];
                    // SAFETY: the vectors have the sizes of the window.
                    unsafe {
                        let out = out.cast();
                        pool2d_dyn(DType::F32, what, &window, planes, input, x, y, out, &|_| {});
                    }
                },
            );
        }
    }
    for (batch, ins, outs, size, kernel, stride, groups, what) in [
        (64, 1, 32, 28, 3, 1, 1, "lenet conv1"),
        (64, 32, 64, 14, 3, 1, 1, "lenet conv2"),
        (32, 3, 64, 32, 3, 1, 1, "resnet stem"),
        (32, 64, 64, 32, 3, 1, 1, "resnet"),
        (32, 64, 128, 32, 3, 2, 1, "resnet"),
        (32, 128, 128, 16, 3, 1, 1, "resnet"),
        (32, 256, 256, 8, 3, 1, 1, "resnet"),
        (32, 512, 512, 4, 3, 1, 1, "resnet"),
        (32, 256, 64, 16, 1, 1, 1, "bottleneck"),
        (1, 64, 64, 56, 3, 1, 1, "inference"),
        (1, 512, 512, 7, 3, 1, 1, "inference"),
        (8, 96, 96, 28, 3, 1, 96, "depthwise"),
    ] {
        let s = ConvShape {
            batch,
            in_channels: ins,
            out_channels: outs,
            groups,
            input: [size, size],
            kernel: [kernel, kernel],
            stride: [stride, stride],
            padding: [(kernel / 2, kernel / 2); 2],
            dilation: [1, 1],
        };
        let [oh, ow] = s.output();
        let window = ins / groups * kernel * kernel;
        let flop = 2.0 * (batch * outs * oh * ow * window) as f64;
        let x = filled(batch * ins * size * size);
        let w = filled(outs * window);
        let y = filled(batch * outs * oh * ow);
        for (face, a, b, out, which) in [
            (Face::Output, &x, &w, &y, "y"),
            (Face::InputGrad, &y, &w, &x, "dx"),
            (Face::WeightGrad, &x, &y, &w, "dw"),
        ] {
            let out = vec![0f32; out.len()];
            let name =
                format!("{batch}x{ins}-{outs} {kernel}x{kernel}/{stride} {size}^2 {what} {which}");
            report(&name, flop, &|| {
                let after = |r| {
                    black_box(r);
                };
                // SAFETY: the vectors have the sizes of the shape; nothing else reads `out`.
                unsafe {
                    conv(
                        face,
                        &s,
                        a.as_ptr(),
                        b.as_ptr(),
                        out.as_ptr().cast_mut(),
                        &after,
                    );
                }
            });
        }
    }
}
