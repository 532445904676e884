//! What the ops refuse and where, and what PyTorch's fixtures cannot hold: constants, random
//! numbers, the test helpers themselves.

use fornax_tensor::testing::assert_close;
use fornax_tensor::*;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The file whose line a call is refused at.
fn refused_at(call: impl FnOnce() -> Tensor) -> String {
    std::panic::set_hook(Box::new(|info| {
        let file = info.location().map_or(String::new(), |at| at.file().into());
        PLACE.set(file);
    }));
    let result = catch_unwind(AssertUnwindSafe(call));
    assert!(result.is_err(), "accepted");
    PLACE.take()
}

#[test]
fn what_a_type_cannot_do_is_refused_at_the_callers_line() {
    let b = Tensor::from_vec(vec![true, false], [2]);
    let x = Tensor::ones([1, 2], DType::F32);
    let (w, long) = (Tensor::ones([2], DType::F64), Tensor::ones([3], DType::F32));
    let half = Tensor::ones([1, 2], DType::BF16);
    let norm = Fast::LayerNorm { eps: 1e-5 };
    let calls: [&dyn Fn() -> Tensor; 14] = [
        &|| b.abs(),
        &|| b.round(),
        &|| b.relu(),
        &|| &b % &b,
        &|| b.pow(&b),
        &|| x.layer_norm(1, Some(&w), None, 1e-5),
        &|| half.layer_norm(1, Some(&w), None, 1e-5),
        &|| x.batch_norm_train(Some(&w), None, 1e-5).0,
        &|| x.batch_norm_eval(&w, &w, None, None, 1e-5),
        &|| x.to_dtype(DType::I64).layer_norm(1, None, None, 1e-5),
        &|| norm.apply(&[x.clone(), long.clone(), long.clone()]),
        &|| norm.apply(std::slice::from_ref(&x)),
        &|| Tensor::full([2], 300.0, DType::U8),
        &|| Tensor::full([2], 3e9, DType::I32),
    ];
    for (i, call) in calls.iter().enumerate() {
        assert_eq!(refused_at(call), file!(), "call {i}");
    }
}

#[test]
fn a_constant_reads_the_same_alone_and_inside_a_kernel() {
    for dtype in DType::ALL {
        // Two roundings, to f32 and to f16, would not give the second.
        for value in [1.0, 1.0 + 2f64.powi(-11) + 2f64.powi(-40), 200.7, 3.0] {
            let c = Tensor::full([2], value, dtype);
            let zero = Tensor::from_vec(vec![0u8, 0], [2]).to_dtype(dtype);
            let both = (&c + &zero).to_f64_vec();
            assert_eq!(c.to_f64_vec(), both, "{value} {dtype}");
        }
    }
    let negative = Tensor::full([1], -1.0, DType::U8);
    assert_eq!(negative.to_vec::<u8>(), [255]);
    let most = Tensor::full([1], i64::MIN as f64, DType::I64);
    assert_eq!(most.to_vec::<i64>(), [i64::MIN]);
}

#[test]
fn random_numbers_lie_below_one_in_every_type() {
    manual_seed(1);
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let v = Tensor::rand([100_000], dtype).to_f64_vec();
        assert!(v.iter().all(|v| (0.0..1.0).contains(v)), "{dtype}");
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        assert!((mean - 0.5).abs() < 0.01, "{dtype} {mean}");
    }
}

#[test]
fn random_integers_of_a_wide_range() {
    manual_seed(2);
    for (low, high) in [
        (i64::MIN, i64::MAX),
        (-1, i64::MAX),
        (0, 1 << 32),
        (5, (3 << 31) + 5),
        (7, (7 << 32) + 7),
    ] {
        let v = Tensor::randint(low, high, [4000]).to_vec::<i64>();
        assert!(v.iter().all(|v| (low..high).contains(v)), "{low}..{high}");
        let mut distinct = v.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 3990, "{low}..{high}: {}", distinct.len());
        let unit = |v: &i64| (*v as f64 - low as f64) / (high as f64 - low as f64);
        let mean = v.iter().map(unit).sum::<f64>() / v.len() as f64;
        assert!((mean - 0.5).abs() < 0.03, "{low}..{high}: {mean}");
        let quarter = v.iter().filter(|v| unit(v) < 0.25).count() as f64 / v.len() as f64;
        assert!((quarter - 0.25).abs() < 0.03, "{low}..{high}: {quarter}");
    }
    // Narrow ranges: all of it, nothing else.
    let mut dice = Tensor::randint(1, 7, [1000]).to_vec::<i64>();
    dice.sort_unstable();
    dice.dedup();
    assert_eq!(dice, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn threads_follow_the_seed_with_numbers_of_their_own() {
    let draw = || Tensor::rand([3], DType::F64).to_vec::<f64>();
    let elsewhere = || std::thread::spawn(draw).join().unwrap();
    manual_seed(5);
    let (here, a, b) = (draw(), elsewhere(), elsewhere());
    assert!(here != a && here != b && a != b);
    // A thread that seeds itself draws what this one drew.
    let seeded = std::thread::spawn(move || {
        manual_seed(5);
        draw()
    });
    assert_eq!(seeded.join().unwrap(), here);
    // Asking where the generator stands moves nothing, and what was asked can be put back.
    let repeated = std::thread::spawn(move || {
        let start = rng_state();
        let first = (rng_state() == start).then(draw);
        set_rng_state(start);
        first == Some(draw())
    });
    assert!(repeated.join().unwrap());
    // A thread that has drawn already follows the next seed too.
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let (answer, answers) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            answer.send(draw()).unwrap();
        }
    });
    let mut draws = Vec::new();
    for seed in [5, 6, 5] {
        manual_seed(seed);
        ask.send(()).unwrap();
        draws.push(answers.recv().unwrap());
    }
    drop(ask);
    thread.join().unwrap();
    assert_eq!(draws[0], draws[2]);
    assert_ne!(draws[0], draws[1]);
}

#[test]
fn nothing_is_close_to_infinity_or_nan() {
    let v = |x: f32| Tensor::from_vec(vec![x], [1]);
    let close = |a: f32, b: f32| catch_unwind(|| assert_close(&v(a), &v(b), 1e-3)).is_ok();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (a, b) in [
        (inf, inf),
        (-inf, -inf),
        (nan, nan),
        (1.0, 1.0005),
        (0.0, -0.0),
    ] {
        assert!(close(a, b), "{a} {b}");
    }
    for (a, b) in [
        (1.0, inf),
        (inf, 1.0),
        (inf, -inf),
        (nan, 1.0),
        (1.0, nan),
        (nan, inf),
    ] {
        assert!(!close(a, b), "{a} {b}");
    }
}
