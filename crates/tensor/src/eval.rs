//! Running a plan: memory for its places, kernels in order, values for its outputs.

use crate::engine::{Arg, Storage};
use crate::error::Result;
use crate::node::{Inputs, Value};
use crate::plan::{Graph, Place, Plan, Store, plan_for};
use crate::shape::Layout;
use crate::tape::{Key, Scalar, Slots};
use crate::tensor::Tensor;
use crate::trace::Recorder;
use std::sync::{Arc, Mutex, MutexGuard};

/// One evaluation at a time: they share the pool, and the marks on the nodes.
static EVALUATING: Mutex<()> = Mutex::new(());

/// Waits until no evaluation is going on; none begins while the guard lives.
pub(crate) fn pause() -> MutexGuard<'static, ()> {
    EVALUATING.lock().unwrap_or_else(|e| e.into_inner())
}

/// Computes all of `roots`, and what belongs to them, in one plan.
pub(crate) fn eval(roots: &[Tensor]) -> Result<()> {
    if roots.iter().all(Tensor::is_evaluated) {
        return Ok(());
    }
    let guard = pause();
    let mut trace = Recorder::begin();
    let graph = Graph::collect(roots);
    trace.phase("collect");
    let plan = plan_for(&graph);
    trace.phase("plan");
    let garbage = run(&graph, &plan, &mut trace)?;
    drop(guard);
    drop(garbage);
    trace.phase("values");
    trace.end(&graph, &plan);
    Ok(())
}

/// Memory that outlives the run: where it is, and at which byte it begins.
struct Kept {
    storage: Arc<Storage>,
    offset: usize,
}

/// Runs the plan and returns what may be dropped once the lock is released.
fn run(graph: &Graph, plan: &Plan, trace: &mut Recorder) -> Result<(Vec<Inputs>, Vec<Value>)> {
    let _flush = crate::cpu::pool::flush_denormals();
    let _awake = crate::cpu::pool::keep_awake();
    let leaf = |i: u32| graph.leaf(i as usize).expect("the plan knows it as a leaf");
    let stores: Vec<Kept> = plan
        .stores
        .iter()
        .map(|store| match *store {
            Store::New(bytes) => Kept {
                storage: Arc::new(Storage::alloc(bytes)),
                offset: 0,
            },
            Store::TakeOver(i) => {
                leaf(i).storage.forget_forms();
                Kept {
                    storage: leaf(i).storage.clone(),
                    offset: leaf(i).start,
                }
            }
        })
        .collect();
    let arena = Storage::scratch(plan.arena);
    let at = |place: Place| {
        let (storage, offset) = match place {
            Place::Leaf(i) => (&*leaf(i).storage, leaf(i).start),
            Place::Arena(offset) => (&arena, offset),
            Place::Store(i) => (&*stores[i as usize].storage, stores[i as usize].offset),
        };
        Arg {
            storage,
            offset,
            constant: matches!(place, Place::Leaf(_)),
        }
    };

    trace.phase("memory");
    let mut args: Vec<Arg<'_>> = Vec::new();
    let (mut scalars, mut keys): (Vec<Scalar>, Vec<Key>) = (Vec::new(), Vec::new());
    for step in &plan.steps {
        args.clear();
        args.extend(step.args.iter().map(|&p| at(p)));
        scalars.clear();
        scalars.extend(
            step.slots
                .scalars
                .iter()
                .map(|&s| graph.scalars[s as usize]),
        );
        keys.clear();
        keys.extend(step.slots.keys.iter().map(|&k| graph.keys[k as usize]));
        step.kernel.run(
            &args,
            &Slots {
                scalars: &scalars,
                keys: &keys,
            },
        )?;
        trace.kernel();
    }

    let mut forgotten = Vec::with_capacity(plan.outputs.len());
    for (node, place, layout) in &plan.outputs {
        let tensor = &graph.nodes[*node as usize].tensor;
        let (storage, offset) = match *place {
            Place::Leaf(i) => (leaf(i).storage.clone(), leaf(i).start),
            Place::Store(i) => (
                stores[i as usize].storage.clone(),
                stores[i as usize].offset,
            ),
            Place::Arena(_) => unreachable!("outputs are kept"),
        };
        let offset = layout.offset + offset / tensor.dtype().size();
        let value = Value {
            storage,
            layout: Layout {
                offset,
                ..layout.clone()
            },
        };
        forgotten.push(tensor.0.set_value(value));
    }
    // Only now: after an error every leaf still has its value.
    let mut taken = Vec::new();
    for store in &plan.stores {
        if let Store::TakeOver(i) = *store {
            let value = graph.nodes[i as usize].tensor.0.state().value.take();
            taken.extend(value.map(|value| *value));
        }
    }
    Ok((forgotten, taken))
}

#[cfg(test)]
mod tests {
    use crate::{Tensor, value_and_grad};

    #[test]
    fn parameters_are_updated_in_place() {
        let mut w = Tensor::from_vec(vec![1f64, 2., 3.], [3]);
        let place = |w: &Tensor| w.value().unwrap().storage.as_ptr();
        let before = place(&w);
        for _ in 0..4 {
            let (_, grads) = value_and_grad(&w, |w| w.square().sum(..));
            w = &w - grads.into_iter().next().unwrap().1 * 0.25;
            w.eval();
            assert_eq!(place(&w), before);
        }
        assert_eq!(w.to_vec::<f64>(), [0.0625, 0.125, 0.1875]);
    }

    /// Kernels keep what they make of weights that stay; what they made of earlier ones is not used.
    #[test]
    fn forms_of_weights_follow_the_weights() {
        use crate::{Precision, with_precision};
        for precision in Precision::ALL {
            let numbers =
                |n: usize, by: usize| (0..n).map(|i| (i * by % 17) as f32 - 8.0).collect();
            let x = Tensor::from_vec(numbers(2 * 16 * 81, 7), [2, 16, 9, 9]);
            let rows = Tensor::from_vec(numbers(130 * 96, 3), [130, 96]);
            // A direct convolution, one with columns, and a product.
            let mut weights = [[24, 16, 3, 3].as_slice(), &[16, 16, 1, 1], &[96, 600]]
                .map(|shape| Tensor::from_vec(numbers(shape.iter().product(), 5), shape));
            let all = |[direct, columns, matrix]: &[Tensor; 3]| {
                with_precision(precision, || {
                    let y = [
                        x.conv2d(direct, None, &Default::default()),
                        x.conv2d(columns, None, &Default::default()),
                        rows.matmul(matrix),
                    ];
                    y.map(|y| y.to_vec::<f32>())
                })
            };
            for _ in 0..3 {
                let first = all(&weights);
                assert!((0..3).all(|_| all(&weights) == first), "{precision:?}");
                let storages = weights
                    .each_ref()
                    .map(|w| w.value().unwrap().storage.as_ptr());
                weights = weights.map(|w| {
                    let (_, grads) = value_and_grad(&w, |w| w.square().sum(..));
                    let w = w - grads.into_iter().next().unwrap().1 * 0.25;
                    w.eval();
                    w
                });
                let now = weights
                    .each_ref()
                    .map(|w| w.value().unwrap().storage.as_ptr());
                assert_eq!(storages, now, "updated in place");
                // The same numbers in memory of their own.
                let copies = weights
                    .each_ref()
                    .map(|w| Tensor::from_vec(w.to_vec::<f32>(), w.shape().to_vec()));
                assert!(all(&weights) == all(&copies), "{precision:?}");
            }
        }
    }

    /// Nothing is kept of weights that the same evaluation changes in the end.
    #[test]
    fn no_form_outlives_an_update() {
        let numbers = |n: usize, by: usize| (0..n).map(|i| (i * by % 17) as f32 - 8.0).collect();
        let x = Tensor::from_vec(numbers(16 * 81, 7), [1, 16, 9, 9]);
        let mut w = Tensor::from_vec(numbers(24 * 16 * 9, 5), [24, 16, 3, 3]);
        let conv = |x: &Tensor, w: &Tensor| x.conv2d(w, None, &Default::default());
        for _ in 0..3 {
            // Two convolutions by the same form of the weights.
            let other = &x * 2.0;
            let (_, grads) = value_and_grad(&w, |w| (conv(&x, w) * conv(&other, w)).sum(..));
            let before = w.value().unwrap().storage.as_ptr();
            w = w - grads.into_iter().next().unwrap().1 * 1e-6;
            w.eval();
            assert_eq!(w.value().unwrap().storage.as_ptr(), before, "in place");
            let copy = Tensor::from_vec(w.to_vec::<f32>(), w.shape().to_vec());
            let now = conv(&x, &w).to_vec::<f32>();
            assert!(now == conv(&x, &copy).to_vec::<f32>());
        }
    }
}
