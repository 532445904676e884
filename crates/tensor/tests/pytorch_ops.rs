//! Every operation against PyTorch, in value and gradient, in f32 and f64.

mod support;

use fornax_tensor::{Attention, ConvSpec, DType, INFER, Tensor};
use serde_json::Value;
use support::compare::check_op;
use support::{Attrs, Fixture, dtype_named, message, slice};

fn check(name: &str) {
    Fixture::open(env!("CARGO_MANIFEST_DIR"), name)
        .check_all(|case, dtype| check_op(case, dtype, apply));
}

#[test]
fn elementwise() {
    check("elementwise");
}

#[test]
fn movement() {
    check("movement");
}

#[test]
fn reductions_and_sorting() {
    check("reduce");
}

#[test]
fn products_and_convolutions() {
    check("linalg");
}

#[test]
fn pooling() {
    check("pool");
}

#[test]
fn indexing() {
    check("index");
}

#[test]
fn fused_operations() {
    check("fast");
}

/// The fixtures' operation `op` in our words.
fn apply(op: &str, a: Attrs, x: &[Tensor]) -> Vec<Tensor> {
    let one = |y: Tensor| vec![y];
    let extra = |k: usize| x.get(k);
    match op {
        "neg" => one(-&x[0]),
        "abs" => one(x[0].abs()),
        "sign" => one(x[0].sign()),
        "floor" => one(x[0].floor()),
        "ceil" => one(x[0].ceil()),
        "round" => one(x[0].round()),
        "trunc" => one(x[0].trunc()),
        "sqrt" => one(x[0].sqrt()),
        "rsqrt" => one(x[0].rsqrt()),
        "exp" => one(x[0].exp()),
        "expm1" => one(x[0].expm1()),
        "log" => one(x[0].log()),
        "log1p" => one(x[0].log1p()),
        "sin" => one(x[0].sin()),
        "cos" => one(x[0].cos()),
        "tanh" => one(x[0].tanh()),
        "erf" => one(x[0].erf()),
        "sigmoid" => one(x[0].sigmoid()),
        "recip" => one(x[0].recip()),
        "relu" => one(x[0].relu()),
        "square" => one(x[0].square()),
        "gelu" => one(x[0].gelu()),
        "gelu_tanh" => one(x[0].gelu_tanh()),
        "silu" => one(x[0].silu()),
        "mish" => one(x[0].mish()),
        "hardswish" => one(x[0].hardswish()),
        "leaky_relu" => one(x[0].leaky_relu(a.float("slope"))),
        "elu" => one(x[0].elu(a.float("alpha"))),
        "softplus" => one(x[0].softplus(a.float("beta"), a.float("threshold"))),
        "logical_not" => one(x[0].logical_not()),
        "is_nan" => one(x[0].is_nan()),
        "is_finite" => one(x[0].is_finite()),
        "powf" => one(x[0].powf(a.float("exponent"))),
        "clamp" => one(match (a.0["min"].as_i64(), a.0["max"].as_i64()) {
            (Some(min), Some(max)) => x[0].clamp(min, max),
            (Some(min), None) => x[0].clamp(min, a.float("max")),
            (None, Some(max)) => x[0].clamp(a.float("min"), max),
            (None, None) => x[0].clamp(a.float("min"), a.float("max")),
        }),
        "to_dtype" => one(x[0].to_dtype(dtype_named(a.text("dtype")))),
        "where" => one(x[0].where_(&x[1], &x[2])),
        "masked_fill" => one(x[0].masked_fill(&x[1], a.float("value"))),
        "sum" | "mean" | "prod" | "max" | "min" | "var" | "std" | "norm" | "any" | "all" => {
            one(reduce(op, a, &x[0]))
        }
        "logsumexp" => one(x[0].logsumexp(a.int("axis"))),
        "argmax" => one(x[0].argmax(a.int("axis"))),
        "argmin" => one(x[0].argmin(a.int("axis"))),
        "cumsum" => one(x[0].cumsum(a.int("axis"))),
        "sort" => pair(x[0].sort(a.int("axis"), a.flag("descending", false))),
        "argsort" => one(x[0].argsort(a.int("axis"), a.flag("descending", false))),
        "topk" => pair(x[0].topk(a.size("k"), a.int("axis"))),
        "one_hot" => one(x[0].one_hot(a.size("classes"), DType::I64)),
        "matmul" => one(x[0].matmul(&x[1])),
        "linear" => one(x[0].linear(&x[1], extra(2))),
        "conv1d" => one(x[0].conv1d(&x[1], extra(2), &conv(a))),
        "conv2d" => one(x[0].conv2d(&x[1], extra(2), &conv(a))),
        "conv_transpose1d" => one(x[0].conv_transpose1d(&x[1], extra(2), &conv(a))),
        "conv_transpose2d" => one(x[0].conv_transpose2d(&x[1], extra(2), &conv(a))),
        _ if op.contains("pool") => one(pool(op, a, &x[0])),
        "gather" => one(x[0].gather(a.int("axis"), &x[1])),
        "index_select" => one(x[0].index_select(a.int("axis"), &x[1])),
        "embedding" => one(x[0].embedding(&x[1])),
        "scatter_add" => one(x[0].scatter_add(a.int("axis"), &x[1], &x[2])),
        "softmax" => one(x[0].softmax(a.int("axis"))),
        "log_softmax" => one(x[0].log_softmax(a.int("axis"))),
        "layer_norm" => one(x[0].layer_norm(a.size("axes"), extra(1), extra(2), a.float("eps"))),
        "attention" => {
            let options = Attention {
                mask: extra(3),
                causal: a.flag("causal", false),
                scale: a.0["scale"].as_f64(),
                dropout: 0.0,
            };
            one(Tensor::attention(&x[0], &x[1], &x[2], options))
        }
        "batch_norm_train" => {
            let (y, mean, var) = x[0].batch_norm_train(extra(1), extra(2), a.float("eps"));
            vec![y, mean.detach(), var.detach()]
        }
        "batch_norm_eval" => {
            one(x[0].batch_norm_eval(&x[1], &x[2], extra(3), extra(4), a.float("eps")))
        }
        "cross_entropy_rows" => one(x[0].cross_entropy_rows(&x[1], -100)),
        _ if op.ends_with("_scalar") => one(scalar(op, &a.0["value"], &x[0])),
        _ if x.len() == 2 && op != "cat" && op != "stack" => one(binary(op, &x[0], &x[1])),
        _ => movement_op(op, a, x),
    }
}

fn pair((a, b): (Tensor, Tensor)) -> Vec<Tensor> {
    vec![a, b]
}

fn binary(op: &str, a: &Tensor, b: &Tensor) -> Tensor {
    match op {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "rem" => a % b,
        "pow" => a.pow(b),
        "maximum" => a.maximum(b),
        "minimum" => a.minimum(b),
        "eq" => a.eq(b),
        "ne" => a.ne(b),
        "lt" => a.lt(b),
        "le" => a.le(b),
        "gt" => a.gt(b),
        "ge" => a.ge(b),
        "logical_and" => a.logical_and(b),
        "logical_or" => a.logical_or(b),
        _ => panic!("the test knows no {op}"),
    }
}

fn scalar(op: &str, value: &Value, x: &Tensor) -> Tensor {
    if let Some(v) = value.as_i64() {
        return match op {
            "add_scalar" => x + v,
            "sub_scalar" => x - v,
            "rsub_scalar" => v - x,
            "mul_scalar" => x * v,
            "div_scalar" => x / v,
            "rdiv_scalar" => v / x,
            "rem_scalar" => x % v,
            _ => panic!("the test knows no {op}"),
        };
    }
    let v = value.as_f64().expect("a number");
    match op {
        "add_scalar" => x + v,
        "sub_scalar" => x - v,
        "rsub_scalar" => v - x,
        "mul_scalar" => x * v,
        "div_scalar" => x / v,
        "rdiv_scalar" => v / x,
        "rem_scalar" => x % v,
        "eq_scalar" => x.eq_scalar(v),
        "ne_scalar" => x.ne_scalar(v),
        "lt_scalar" => x.lt_scalar(v),
        "le_scalar" => x.le_scalar(v),
        "gt_scalar" => x.gt_scalar(v),
        "ge_scalar" => x.ge_scalar(v),
        _ => panic!("the test knows no {op}"),
    }
}

fn reduce(op: &str, a: Attrs, x: &Tensor) -> Tensor {
    let axes = a.ints("axes");
    match (op, a.flag("keepdim", false)) {
        ("sum", false) => x.sum(axes),
        ("sum", true) => x.sum_keepdim(axes),
        ("mean", false) => x.mean(axes),
        ("mean", true) => x.mean_keepdim(axes),
        ("max", false) => x.max(axes),
        ("max", true) => x.max_keepdim(axes),
        ("min", false) => x.min(axes),
        ("min", true) => x.min_keepdim(axes),
        ("prod", false) => x.prod(axes),
        ("prod", true) => {
            let mut sorted: Vec<isize> = axes
                .iter()
                .map(|a| a.rem_euclid(x.rank() as isize))
                .collect();
            sorted.sort();
            sorted
                .iter()
                .fold(x.prod(axes), |y, &axis| y.unsqueeze(axis))
        }
        ("var", _) => x.var(axes, a.size("correction")),
        ("std", _) => x.std(axes, a.size("correction")),
        ("norm", _) => x.norm(axes),
        ("any", _) => x.any(axes),
        ("all", _) => x.all(axes),
        _ => panic!("the test knows no {op}"),
    }
}

fn conv(a: Attrs) -> ConvSpec {
    let mut spec = ConvSpec::new();
    if a.has("stride") {
        spec = spec.stride(a.sizes("stride"));
    }
    if a.has("padding") {
        spec = spec.padding(a.sizes("padding"));
    }
    if a.has("dilation") {
        spec = spec.dilation(a.sizes("dilation"));
    }
    if a.has("output_padding") {
        spec = spec.output_padding(a.sizes("output_padding"));
    }
    if a.has("groups") {
        spec.groups(a.size("groups"))
    } else {
        spec
    }
}

fn pool(op: &str, a: Attrs, x: &Tensor) -> Tensor {
    if op.starts_with("adaptive") {
        return match op {
            "adaptive_avg_pool1d" => x
                .unsqueeze(-2)
                .adaptive_avg_pool2d([1, a.size("out")])
                .squeeze(-2),
            "adaptive_max_pool1d" => x
                .unsqueeze(-2)
                .adaptive_max_pool2d([1, a.size("out")])
                .squeeze(-2),
            "adaptive_avg_pool2d" => x.adaptive_avg_pool2d(a.pair("out", 1)),
            "adaptive_max_pool2d" => x.adaptive_max_pool2d(a.pair("out", 1)),
            _ => panic!("the test knows no {op}"),
        };
    }
    let (kernel, stride, padding) = (
        a.sizes("kernel_size"),
        a.sizes("stride"),
        a.sizes("padding"),
    );
    let include = a.flag("count_include_pad", true);
    let two = |v: &[usize]| [v[0], v[1]];
    match op {
        "max_pool1d" => x.max_pool1d(kernel[0], stride[0], padding[0]),
        "avg_pool1d" => x.avg_pool1d(kernel[0], stride[0], padding[0], include),
        "max_pool2d" => x.max_pool2d(two(&kernel), two(&stride), two(&padding)),
        "avg_pool2d" => x.avg_pool2d(two(&kernel), two(&stride), two(&padding), include),
        _ => panic!("the test knows no {op}"),
    }
}

fn movement_op(op: &str, a: Attrs, x: &[Tensor]) -> Vec<Tensor> {
    let y = &x[0];
    vec![match op {
        "reshape" => {
            let infer = |v: isize| if v == -1 { INFER } else { v as usize };
            y.reshape(a.ints("shape").into_iter().map(infer).collect::<Vec<_>>())
        }
        "flatten" => y.flatten(a.int("start"), a.int("end")),
        "permute" => y.permute(a.ints("axes")),
        "transpose" => y.transpose(a.int("a"), a.int("b")),
        "t" => y.t(),
        "squeeze" => y.squeeze(a.int("axis")),
        "unsqueeze" => y.unsqueeze(a.int("axis")),
        "broadcast_to" => y.broadcast_to(a.sizes("shape")),
        "slice" => slice(y, a.int("axis"), &a.0["start"], &a.0["end"], a.int("step")),
        "narrow" => y.narrow(a.int("axis"), a.size("start"), a.size("len")),
        "select" => y.select(a.int("axis"), a.int("i")),
        "flip" => y.flip(a.ints("axes")),
        "pad" => {
            let pads = a.0["pads"].as_array().unwrap().iter().map(|p| {
                (
                    p[0].as_u64().unwrap() as usize,
                    p[1].as_u64().unwrap() as usize,
                )
            });
            y.pad(&pads.collect::<Vec<_>>(), a.float("value"))
        }
        "cat" => Tensor::cat(x, a.int("axis")),
        "stack" => Tensor::stack(x, a.int("axis")),
        "split" => return y.split(a.size("size"), a.int("axis")),
        "chunk" => return y.chunk(a.size("n"), a.int("axis")),
        "repeat" => y.repeat(&a.sizes("times")),
        "tril" => y.tril(a.int("diagonal")),
        "triu" => y.triu(a.int("diagonal")),
        _ => panic!("the test knows no {op}"),
    }]
}

/// The element type of every pair of types under each kind of operation.
#[test]
fn promotion() {
    let table = Fixture::open(env!("CARGO_MANIFEST_DIR"), "elementwise").meta("promotion");
    let mut failures = Vec::new();
    for row in table.as_array().unwrap() {
        let cell: Vec<&str> = row
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_str().unwrap())
            .collect();
        let [op, kind, a, b, expected] = cell[..] else {
            panic!("five cells")
        };
        let ones = |scalar: bool, name: &str| {
            let shape: &[usize] = if scalar { &[] } else { &[1] };
            Tensor::ones(shape, dtype_named(name))
        };
        let call = || {
            let x = ones(kind == "01" || kind == "00" || kind == "scalar0", a);
            match (kind, op) {
                ("scalar" | "scalar0", "pow") => x.powf(2.0),
                ("scalar" | "scalar0", _) if b == "int" => {
                    scalar(&format!("{op}_scalar"), &2.into(), &x)
                }
                ("scalar" | "scalar0", _) => scalar(&format!("{op}_scalar"), &2.5.into(), &x),
                ("unary", _) => apply(op, Attrs(&Value::Null), &[x]).remove(0),
                ("reduce", "sum") => x.sum(..),
                ("reduce", "prod") => x.prod(..),
                ("reduce", "mean") => x.mean(..),
                ("reduce", "cumsum") => x.cumsum(0),
                ("reduce", "softmax") => x.softmax(0),
                (_, "where") => Tensor::ones([1], DType::Bool).where_(&x, &ones(false, b)),
                (_, "cat") => Tensor::cat(&[x, ones(false, b)], 0),
                _ => binary(op, &x, &ones(kind == "10" || kind == "00", b)),
            }
        };
        // There is no power with an integer constant: `powf` takes a float.
        if op == "pow" && b == "int" {
            continue;
        }
        let got = std::panic::catch_unwind(call);
        // Where PyTorch refuses and a meaning is plain (the mean of integers), we may have one; the
        // difference of booleans has none.
        let refused = op == "sub" && (a, b) == ("bool", "bool") || op == "neg" && a == "bool";
        if expected == "raises" && !refused {
            continue;
        }
        let got_name = got
            .as_ref()
            .map_or("raises".into(), |y| y.dtype().to_string());
        if got_name != expected {
            let why = got
                .err()
                .map_or(String::new(), |p| format!(" ({})", message(&*p)));
            failures.push(format!(
                "{op} {kind} {a} {b}: {got_name}, expected {expected}{why}"
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
