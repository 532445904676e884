//! What an evaluation may overwrite, and what it must leave alone.

use fornax_tensor::DType::*;
use fornax_tensor::*;

fn t(v: &[f32], shape: impl Into<Shape>) -> Tensor {
    Tensor::from_vec(v.to_vec(), shape)
}

fn counting(n: usize) -> Tensor {
    t(&(0..n).map(|i| i as f32).collect::<Vec<_>>(), [n])
}

#[test]
fn a_held_view_outlives_a_leaf_that_nobody_holds() {
    let flat = t(&[1., 2., 3., 4.], [2, 2]).reshape([4]);
    let y = &flat * 2.0;
    y.eval();
    assert_eq!(flat.to_vec::<f32>(), [1., 2., 3., 4.]);

    let (d, y) = {
        let w = t(&[1., 2., 3., 4.], [4]);
        (w.detach(), &w - 10.0)
    };
    eval_all(&[&d, &y]).unwrap();
    assert_eq!(d.to_vec::<f32>(), [1., 2., 3., 4.]);
}

#[test]
fn a_part_widened_to_the_bytes_of_the_whole_needs_memory_of_its_own() {
    let n = 5000;
    let wide = counting(2 * n).narrow(0, 0, n).to_dtype(F64);
    let want: Vec<f64> = (0..n).map(|i| i as f64).collect();
    assert_eq!(wide.to_vec::<f64>(), want);
    // The same between temporaries.
    let order = Tensor::arange(2 * n, I64);
    let half = (counting(2 * n) % 100.0).to_dtype(BF16).gather(0, &order);
    let wide = half.narrow(0, 0, n).to_dtype(F32);
    let got = wide.gather(0, &Tensor::arange(n, I64));
    let want: Vec<f32> = (0..n).map(|i| (i % 100) as f32).collect();
    assert_eq!(got.to_vec::<f32>(), want);
}

#[test]
fn an_update_in_place_copies_nothing_onto_itself() {
    let mut x = counting(6);
    for i in 0..3 {
        x = x.slice_update(&[i], &t(&[9.0], [1]));
        x.eval();
    }
    assert_eq!(x.to_vec::<f32>(), [9., 9., 9., 3., 4., 5.]);
}

#[test]
fn a_view_made_before_a_recording_is_there_for_the_backward_pass() {
    let p = t(&[1., 2., 3., 4.], [2, 2]);
    let x = t(&[5., 6., 7., 8.], [4]).reshape([2, 2]);
    let (_, grads) = value_and_grad(&p, move |p| {
        let product = x * p;
        let loss = product.sum(..);
        loss.item();
        drop(product);
        loss
    });
    let g = grads.get("").unwrap().to_vec::<f32>();
    assert_eq!(g, [5., 6., 7., 8.]);
}

#[test]
fn evaluated_views_that_walk_backwards_can_be_cut_again() {
    let y = counting(5).flip(0);
    y.eval();
    let z = y.narrow(0, 1, 3);
    assert_eq!((&z + 1.0).to_vec::<f32>(), [4., 3., 2.]);
    z.eval();
    assert_eq!(z.narrow(0, 1, 2).to_vec::<f32>(), [2., 1.]);
    let y = counting(6).reshape([3, 2]).flip(0).flip(1);
    y.eval();
    let z = y.narrow(0, 1, 2);
    assert_eq!(
        z.matmul(&Tensor::eye(2, F32)).to_vec::<f32>(),
        [3., 2., 1., 0.]
    );
    assert_eq!(z.sum(0).to_vec::<f32>(), [4., 2.]);
    assert_eq!(z.cumsum(0).to_vec::<f32>(), [3., 2., 4., 2.]);
}

#[test]
fn a_failed_evaluation_harms_nothing() {
    // The labels are checked with -100 allowed first, and without at the end.
    let target = Tensor::from_vec(vec![0i64, -100], [2]);
    let logits = Tensor::zeros([2, 4], F32);
    let loss = logits.cross_entropy_rows(&target, -100);
    let doubled = counting(4) * 2.0;
    let bad = counting(4).index_select(0, &target);
    assert!(eval_all(&[&loss, &doubled, &bad]).is_err());
    assert_eq!(doubled.to_vec::<f32>(), [0., 2., 4., 6.]);
}

#[test]
#[should_panic(expected = "too many elements")]
fn sizes_that_cannot_be_counted_are_refused() {
    t(&[0.0; 4], [(1usize << 62) + 1, 4]);
}

#[test]
#[should_panic(expected = "lie outside")]
fn a_part_from_beyond_the_end_is_refused() {
    counting(4).narrow(0, usize::MAX, 2);
}

/// More plans than the cache keeps: it forgets, and goes on being right.
#[test]
fn plans_come_and_go() {
    let x = counting(8);
    for round in 0..2 {
        for length in 1..400usize {
            let parts = (0..length).map(|i| x.narrow(0, i % 8, 1).cumsum(0));
            let sum = Tensor::cat(&parts.collect::<Vec<_>>(), 0).sum(..).item();
            let want: usize = (0..length).map(|i| i % 8).sum();
            assert_eq!(sum, want as f64, "round {round}, length {length}");
        }
    }
}

/// Between two products, an activation writes what it was given and what it gives, and its gradient reads
/// the former: nothing of what is in between.
#[test]
fn the_gradient_of_an_activation_reads_its_input_alone() {
    let (m, inner, n, out) = (16, 8, 32, 4);
    let random = |shape| Tensor::randn(shape, F32);
    let [x, w, v] = [[m, inner], [inner, n], [n, out]].map(random);
    let b = Tensor::randn([n], F32);
    eval_all(&[&x, &w, &v, &b]).unwrap();
    let activations: [fn(&Tensor) -> Tensor; 5] = [
        Tensor::gelu,
        Tensor::gelu_tanh,
        Tensor::silu,
        Tensor::mish,
        Tensor::hardswish,
    ];
    for f in activations {
        let step = || {
            let y = |w, v| f(&(x.matmul(w) + &b)).matmul(v).sum(..);
            let grads = record(|| grad_of(&y(&w, &v), &[&w, &v]));
            eval_all(&[&grads[0], &grads[1]]).unwrap();
        };
        let ((), kernels) = trace::kernels_of(step);
        for (k, bias) in [(inner, n), (out, 0)] {
            let name = format!("matmul {m}x{k}x{n} ");
            let with: Vec<_> = kernels
                .iter()
                .filter(|t| t.label.starts_with(&name))
                .collect();
            let [kernel] = with[..] else {
                panic!("one {name} in {kernels:?}")
            };
            assert!(kernel.label.contains("then"), "{}", kernel.label);
            let arrays = kernel.bytes as usize - 4 * (m * k + k * n + bias);
            assert_eq!(arrays, 4 * 2 * m * n, "{}", kernel.label);
        }
    }
}

/// Queries, keys and values of one projection go into attention, and their gradients come back out of it,
/// without being copied; with fewer heads of keys than of queries, too.
#[test]
fn a_projection_for_attention_copies_nothing() {
    let (b, t, d) = (2, 16, 8);
    for (heads, groups) in [(4, 4), (4, 2)] {
        let wide = (heads + 2 * groups) * d;
        let [x, w] = [[b * t, heads * d], [heads * d, wide]].map(|s| Tensor::randn(s, F32));
        eval_all(&[&x, &w]).unwrap();
        let attend = |w: &Tensor| {
            let all = x.matmul(w).reshape([b, t, wide]);
            let part = |start: usize, n: usize| {
                let part = all.narrow(-1, start * d, n * d);
                part.reshape([b, t, n, d]).transpose(1, 2)
            };
            let (q, k) = (part(0, heads), part(heads, groups));
            let v = part(heads + groups, groups);
            Tensor::attention(&q, &k, &v, Attention::default())
        };
        let step = || {
            let grads = record(|| grad_of(&attend(&w).square().sum(..), &[&w]));
            eval_all(&[&grads[0]]).unwrap();
        };
        let ((), kernels) = trace::kernels_of(step);
        // What comes in between has to do with attention's output.
        let labels: Vec<&str> = kernels.iter().map(|k| &k.label[..]).collect();
        let is = |i: usize, name: &str| labels[i].starts_with(name);
        assert!(is(0, "matmul") && is(1, "attention ["), "{labels:?}");
        let end = labels.len();
        assert!(
            is(end - 2, "attention_grad") && is(end - 1, "matmul"),
            "{labels:?}"
        );
        // By differences.
        let by = Tensor::randn([heads * d, wide], F32);
        let loss = |e: f64| attend(&(&w + &by * e)).square().sum(..).item();
        let grads = record(|| grad_of(&attend(&w).square().sum(..), &[&w]));
        let slope = (&grads[0] * &by).sum(..).item();
        let found = (loss(1e-3) - loss(-1e-3)) / 2e-3;
        let near = (found - slope).abs() < 2e-2 * slope.abs().max(1.0);
        assert!(near, "{found} and {slope}");
    }
}

#[test]
fn pieces_put_together_again_are_what_they_were() {
    let x = Tensor::randn([6, 10], F32).eval().clone();
    for axis in [0, 1] {
        let pieces = x.split(4, axis);
        let (y, kernels) = trace::kernels_of(|| (Tensor::cat(&pieces, axis) * 2.0).eval().clone());
        assert_eq!(y.to_vec::<f32>(), (&x * 2.0).to_vec::<f32>());
        assert_eq!(kernels.len(), 1, "{kernels:?}");
        // Of something that is computed, and read as a whole, too.
        let z = &x + 1.0;
        let both = Tensor::cat(&z.split(4, axis), axis) * &z + z.sum(..);
        let wanted = &z * &z + z.sum(..);
        assert_eq!(both.to_vec::<f32>(), wanted.to_vec::<f32>());
        // Not what would be changed where it lies.
        let put = |x: &Tensor| x.slice_update(&[0, 0], &Tensor::zeros([1, 1], F32));
        let joined = Tensor::cat(&(&x + 1.0).split(4, axis), axis);
        assert_eq!(put(&joined).to_vec::<f32>(), put(&z).to_vec::<f32>());
        assert_eq!(joined.to_vec::<f32>(), z.to_vec::<f32>());
        let turned = Tensor::cat(&[pieces[1].clone(), pieces[0].clone()], axis);
        assert_eq!(
            turned.narrow(axis, 0, 1).to_vec::<f32>(),
            x.narrow(axis, 4, 1).to_vec::<f32>()
        );
    }
}
