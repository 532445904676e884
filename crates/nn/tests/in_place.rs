//! An optimizer's step overwrites parameters and state instead of making new ones beside them.
//! One test in a process of its own: it reads the allocator's statistics.

use fornax_nn::{AdamW, Module, Optimizer, Param};
use fornax_tensor::cpu::storage;
use fornax_tensor::{DType, Tensor, value_and_grad};

#[derive(Module)]
struct Net {
    weight: Param,
}

#[test]
fn a_step_needs_no_second_copy() {
    const N: usize = 4 << 20;
    let bytes = N * 4;
    let weight = Tensor::rand([N], DType::F32);
    weight.eval();
    let mut net = Net {
        weight: Param::new(weight),
    };
    let mut optimizer = AdamW::new(1e-3);
    let mut step = || {
        let (_, grads) = value_and_grad(&net, |net| net.weight.square().sum(..));
        optimizer.step(&mut net, grads).unwrap();
    };
    for _ in 0..3 {
        step();
    }
    storage::clear_cache();
    let before = storage::stats();
    assert!(before.in_use < 3 * bytes + bytes / 2, "{before:?}");
    for _ in 0..3 {
        step();
    }
    // The weight, its two running means and, where it is not fused away, the gradient.
    let after = storage::stats();
    let total = after.in_use + after.cached;
    assert!(
        total < 4 * bytes + bytes / 2,
        "{after:?}, {bytes} bytes a copy"
    );
}
