//! How close single kernels come to the limits of the machine, which are measured in the same run.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use fornax_nn::{AdamW, Optimizer, Param};
use fornax_tensor::cpu::{ceiling, pool};
use fornax_tensor::trace::{Timed, kernels_of};
use fornax_tensor::{
    Attention, ConvSpec, DType, Grads, Precision, Shape, Tensor, eval_all, grad_of, manual_seed,
    record,
};

/// A kernel is run for so long, ...
const ENOUGH: Duration = Duration::from_millis(60);
/// ... but at least so often.
const LEAST: usize = 4;

/// The limits that kernels are held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Billions of `f32` additions and multiplications a second.
    pub f32_gflops: f64,
    /// The same of products of `bf16` on a matrix unit, if there is one.
    pub bf16_gflops: Option<f64>,
    /// Billions of bytes a second that a large copy reads and writes.
    pub copy_gbs: f64,
}

impl Ceilings {
    /// Measures them, on as many threads as the pool has.
    pub fn measure() -> Self {
        Ceilings {
            f32_gflops: rounded(ceiling::multiply_add()),
            bf16_gflops: ceiling::matrix_unit().map(rounded),
            copy_gbs: rounded(ceiling::copy_speed()),
        }
    }

    /// What products of a precision may reach, which take one, three or six products of `bf16` on
    /// a matrix unit.
    fn products(&self, precision: Precision) -> f64 {
        let passes = match precision {
            Precision::Medium => 1.0,
            Precision::High => 3.0,
            Precision::Highest => 6.0,
        };
        let unit = self.bf16_gflops.unwrap_or(0.0) / passes;
        self.f32_gflops.max(unit)
    }
}

/// The figures of one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelFigures {
    /// What kind of kernel.
    pub kind: String,
    /// Its sizes and where they come from.
    pub name: String,
    /// How exactly products are computed.
    pub precision: String,
    /// Threads that shared the work.
    pub threads: usize,
    /// The fastest run, in microseconds.
    pub us: f64,
    /// Billions of `unit` a second.
    pub rate: f64,
    /// `flop` or `byte`.
    pub unit: String,
    /// Percent of the limit.
    pub percent: f64,
}

/// A kernel to be measured.
struct Case {
    kind: &'static str,
    name: String,
    run: Box<dyn FnMut()>,
}

/// Measures every kernel whose kind or name contains one of the `filters` (all without any) at the
/// precision that is set, and tells each as soon as it is known.
pub fn run(filters: &[String], ceilings: &Ceilings, mut tell: impl FnMut(&KernelFigures)) {
    manual_seed(1);
    for group in [products, convolutions, attentions, rows, optimizer_steps] {
        for mut case in group() {
            let wanted = |f: &String| case.kind.contains(&**f) || case.name.contains(&**f);
            if filters.is_empty() || filters.iter().any(wanted) {
                tell(&measure(&mut case, ceilings));
            }
        }
    }
}

fn measure(case: &mut Case, ceilings: &Ceilings) -> KernelFigures {
    // The kernels that are meant: others prepare their inputs.
    let meant = |kernel: &Timed| kernel.label.starts_with(case.kind);
    let mut best: Option<(Duration, Vec<Timed>)> = None;
    let started = Instant::now();
    let mut runs = 0;
    while runs < LEAST || started.elapsed() < ENOUGH {
        let (_, mut kernels) = kernels_of(&mut case.run);
        kernels.retain(meant);
        let time = kernels.iter().map(|kernel| kernel.time).sum();
        if best.as_ref().is_none_or(|(least, _)| time < *least) {
            best = Some((time, kernels));
        }
        runs += 1;
    }
    let (time, kernels) = best.expect("at least one run");
    let flops: u64 = kernels.iter().map(|kernel| kernel.flops).sum();
    let bytes: u64 = kernels.iter().map(|kernel| kernel.bytes).sum();
    let (work, unit, limit) = match flops {
        0 => (bytes, "byte", ceilings.copy_gbs),
        _ => (flops, "flop", ceilings.products(Precision::current())),
    };
    let rate = work as f64 / time.as_secs_f64() / 1e9;
    KernelFigures {
        kind: case.kind.into(),
        name: case.name.clone(),
        precision: Precision::current().to_string(),
        threads: pool::threads(),
        us: rounded(1e6 * time.as_secs_f64()),
        rate: rounded(rate),
        unit: unit.into(),
        percent: rounded(100.0 * rate / limit),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn random(shape: impl Into<Shape>) -> Tensor {
    let x = Tensor::randn(shape, DType::F32);
    x.eval();
    x
}

/// A case that computes tensors from given ones.
fn case(kind: &'static str, name: String, f: impl Fn() -> Vec<Tensor> + 'static) -> Case {
    Case {
        kind,
        name,
        run: Box::new(move || {
            let results = f();
            eval_all(&results.iter().collect::<Vec<_>>()).expect("no index can be out of range");
        }),
    }
}

fn products() -> Vec<Case> {
    let squares = [64, 128, 256, 512, 1024, 2048, 4096].map(|n| (n, n, n, "nn", "square"));
    // As BLAS says it: `t` where an operand lies transposed, as a linear layer's weight does in
    // the forward pass.
    let of_workloads = [
        (64, 784, 256, "nt", "mlp_b64 forward"),
        (256, 64, 784, "tn", "mlp_b64 dw"),
        (64, 128, 10, "nt", "mlp_b64 head"),
        (512, 784, 1024, "nt", "mlp_b512 forward"),
        (512, 1024, 1024, "nn", "mlp_b512 dx"),
        (1024, 512, 1024, "tn", "mlp_b512 dw"),
        (64, 3136, 128, "nt", "lenet dense"),
        (32, 256, 1024, "nt", "lstm step"),
        (2048, 256, 1024, "nt", "lstm inputs"),
        (768, 128, 384, "nt", "gpt_nano qkv"),
        (4096, 384, 1536, "nt", "gpt_baby mlp"),
        (4096, 1536, 384, "nn", "gpt_baby mlp dx"),
        (1536, 4096, 384, "tn", "gpt_baby mlp dw"),
        (256, 768, 3072, "nt", "gpt2 mlp"),
        (3072, 256, 768, "tn", "gpt2 mlp dw"),
        (256, 768, 50257, "nt", "gpt2 head"),
        (50257, 256, 768, "tn", "gpt2 head dw"),
        (1, 768, 3072, "nt", "gpt2 decode"),
        (1, 768, 50257, "nt", "gpt2 decode head"),
        (128, 768, 3072, "nt", "bert b1"),
        (1024, 768, 3072, "nt", "bert b8"),
        (2048, 192, 768, "nt", "vit mlp"),
    ];
    let product = |(m, k, n, turns, what): (usize, usize, usize, &str, &str)| {
        let operand = |rows, cols, turned| match turned {
            true => random([cols, rows]).t(),
            false => random([rows, cols]),
        };
        let a = operand(m, k, turns.starts_with('t'));
        let b = operand(k, n, turns.ends_with('t'));
        let name = format!("{m}x{k}x{n} {turns} {what}");
        case("matmul", name, move || vec![a.matmul(&b)])
    };
    squares
        .into_iter()
        .chain(of_workloads)
        .map(product)
        .collect()
}

fn convolutions() -> Vec<Case> {
    // Batch, channels in and out, size, kernel, stride.
    let shapes = [
        (64, 1, 32, 28, 3, 1, "lenet conv1"),
        (64, 32, 64, 14, 3, 1, "lenet conv2"),
        (32, 3, 64, 32, 3, 1, "resnet18 stem"),
        (32, 64, 64, 32, 3, 1, "resnet18 layer1"),
        (32, 64, 128, 32, 3, 2, "resnet18 layer2"),
        (32, 128, 128, 16, 3, 1, "resnet18 layer2"),
        (32, 128, 256, 16, 1, 2, "resnet18 shortcut"),
        (32, 256, 256, 8, 3, 1, "resnet18 layer3"),
        (32, 512, 512, 4, 3, 1, "resnet18 layer4"),
        (1, 3, 64, 224, 7, 2, "resnet50 stem"),
        (1, 64, 256, 56, 1, 1, "resnet50 layer1"),
        (1, 64, 64, 56, 3, 1, "resnet50 layer1"),
        (1, 1024, 256, 14, 1, 1, "resnet50 layer3"),
        (1, 512, 512, 7, 3, 1, "resnet50 layer4"),
    ];
    let mut cases = Vec::new();
    for (n, c, o, size, kernel, stride, what) in shapes {
        let (x, w) = (random([n, c, size, size]), random([o, c, kernel, kernel]));
        let spec = ConvSpec::new().stride(stride).padding(kernel / 2);
        let name = format!("{n}x{c}-{o} {kernel}x{kernel}/{stride} {size}^2 {what}");
        let forward = {
            let (x, w, spec) = (x.clone(), w.clone(), spec.clone());
            move || x.conv2d(&w, None, &spec)
        };
        let dy = random(forward().shape());
        cases.push(case("conv [", name.clone(), {
            let forward = forward.clone();
            move || vec![forward()]
        }));
        for (kind, of) in [("conv dx", x), ("conv dw", w)] {
            let (forward, dy) = (forward.clone(), dy.clone());
            cases.push(case(kind, name.clone(), move || {
                record(|| grad_of(&(forward() * &dy).sum(..), &[&of]))
            }));
        }
    }
    cases
}

fn attentions() -> Vec<Case> {
    let shapes = [
        (12, 4, 64, 32, true, "gpt_nano"),
        (16, 6, 256, 64, true, "gpt_baby"),
        (1, 12, 256, 64, true, "gpt2"),
        (1, 12, 1024, 64, true, "gpt2 full context"),
        (32, 3, 64, 64, false, "vit_tiny"),
        (8, 12, 128, 64, false, "bert b8"),
    ];
    let mut cases = Vec::new();
    for (b, h, t, d, causal, what) in shapes {
        let [q, k, v, dy] = [0; 4].map(|_| random([b, h, t, d]));
        let name = format!("{b}x{h} heads of {t}x{d} {what}");
        let forward = {
            let (q, k, v) = (q.clone(), k.clone(), v.clone());
            move || {
                let options = Attention {
                    causal,
                    ..Attention::default()
                };
                Tensor::attention(&q, &k, &v, options)
            }
        };
        cases.push(case("attention [", name.clone(), {
            let forward = forward.clone();
            move || vec![forward()]
        }));
        cases.push(case("attention_grad", name, move || {
            record(|| grad_of(&(forward() * &dy).sum(..), &[&q, &k, &v]))
        }));
    }
    cases
}

/// Kernels that move memory more than they compute: in a cache, and far beyond it.
fn rows() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[768, 128], [4096, 384], [16384, 1024]] {
        let [x, w] = [random(shape), random([shape[1]])];
        let name = format!("{}x{}", shape[0], shape[1]);
        let mut add = |kind, what: &str, f: Box<dyn Fn(&Tensor) -> Tensor>| {
            let x = x.clone();
            cases.push(case(kind, format!("{what} {name}"), move || vec![f(&x)]));
        };
        add("map", "scale", Box::new(|x| x * 0.5));
        add("map", "gelu", Box::new(|x| x.gelu()));
        add("map", "gelu tanh", Box::new(|x| x.gelu_tanh()));
        let twice = |x: Tensor| Tensor::cat(&[x.clone(), x], 0);
        add("copy", "concat", Box::new(move |x| twice(x.clone())));
        add("copy", "transpose", Box::new(move |x| twice(x.t())));
        add("softmax", "", Box::new(|x| x.softmax(-1)));
        let (weight, bias) = (w.clone(), w);
        add(
            "layer_norm",
            "",
            Box::new(move |x| x.layer_norm(1, Some(&weight), Some(&bias), 1e-5)),
        );
        add("reduce", "sum of all", Box::new(|x| x.sum(..)));
        add("reduce", "sum of columns", Box::new(|x| x.sum(0)));
    }
    cases
}

fn optimizer_steps() -> Vec<Case> {
    let sizes = [[256, 784], [3072, 768]];
    let step = |size: [usize; 2]| {
        let mut param = Param::new(random(size));
        let grad = random(size);
        let mut optimizer = AdamW::new(1e-3);
        Case {
            kind: "map",
            name: format!("AdamW {}x{}", size[0], size[1]),
            run: Box::new(move || {
                let grads = Grads::from_iter([(String::new(), grad.clone())]);
                optimizer
                    .step(&mut param, grads)
                    .expect("the gradient of this parameter");
            }),
        }
    };
    sizes.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_that_of_the_faster_unit() {
        let with = |bf16_gflops| Ceilings {
            f32_gflops: 300.0,
            bf16_gflops,
            copy_gbs: 10.0,
        };
        let limits = |c: Ceilings| Precision::ALL.map(|p| c.products(p));
        assert_eq!(limits(with(Some(3000.0))), [500.0, 1000.0, 3000.0]);
        assert_eq!(limits(with(None)), [300.0; 3]);
    }

    #[test]
    fn every_case_finds_its_kernels() {
        let ceilings = Ceilings {
            f32_gflops: 100.0,
            bf16_gflops: None,
            copy_gbs: 10.0,
        };
        let mut seen = Vec::new();
        let filters = [
            "mlp_b64",
            "resnet18 shortcut",
            "gpt_nano",
            "768x128",
            "AdamW",
        ];
        let filters = filters.map(String::from);
        run(&filters, &ceilings, |figures| {
            assert!(figures.rate > 0.0 && figures.percent > 0.0, "{figures:?}");
            seen.push(figures.kind.clone());
        });
        for kind in ["matmul", "conv dx", "conv dw", "attention_grad", "softmax"] {
            assert!(seen.iter().any(|k| k == kind), "{kind} of {seen:?}");
        }
    }
}
