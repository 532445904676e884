//! Every layer against PyTorch: results, gradients of inputs and parameters, buffers; and a state dict that
//! PyTorch saved.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::*;
use fornax_tensor::{DType, Shape, Tensor, grad_of, record, with_training};
use serde_json::Value;
use support::compare::{check_grads, check_outs, compare, elements};
use support::{Attrs, Case, Fixture};

#[test]
fn layers() {
    Fixture::open(env!("CARGO_MANIFEST_DIR"), "layers").check_all(check_layer);
}

fn check_layer(case: &Case, dtype: DType) -> Vec<String> {
    let mut layer = build(case.op(), case.attrs());
    let mut unknown = fill(&mut *layer, case, dtype);
    let leaves = case.leaves(dtype);
    let params: Vec<(String, Tensor)> = layer.named_parameters();
    let targets: Vec<&Tensor> = case
        .grads()
        .iter()
        .map(|&k| &leaves[k])
        .chain(params.iter().map(|p| &p.1))
        .collect();
    let (out, grads) = record(|| {
        let mut y = None;
        for _ in 0..case.json["steps"].as_u64().unwrap() {
            y = Some(with_training(case.json["train"] == true, || {
                layer.forward(&leaves[0])
            }));
        }
        let y = y.expect("at least one step");
        let grads = if targets.is_empty() {
            Vec::new()
        } else {
            grad_of(&case.loss(std::slice::from_ref(&y)), &targets)
        };
        (y, grads)
    });
    let mut complaints = check_outs(case, &[out], dtype);
    let (of_inputs, of_params) = grads.split_at(case.grads().len());
    complaints.extend(check_grads(case, of_inputs));
    for ((name, p), g) in params.iter().zip(of_params) {
        complaints.extend(compare(
            case.fixture,
            &format!("{}.p.{name}", case.index),
            g,
            Some(p.shape()),
            false,
        ));
    }
    let after: Vec<&str> = case.json["buffers_after"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap())
        .collect();
    let buffers = layer.named_buffers();
    let names: Vec<&str> = buffers.iter().map(|b| b.0.as_str()).collect();
    if names != after {
        complaints.push(format!("buffers {names:?}, expected {after:?}"));
    }
    for (name, b) in buffers.iter().filter(|b| after.contains(&b.0.as_str())) {
        complaints.extend(compare(
            case.fixture,
            &format!("{}.b.{name}", case.index),
            b,
            None,
            false,
        ));
    }
    complaints.append(&mut unknown);
    complaints
}

/// Puts the case's parameters and buffers into the layer, converted to `dtype`; complains about names.
fn fill(layer: &mut dyn Layer, case: &Case, dtype: DType) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut seen = Vec::new();
    layer.visit_mut(&mut Path::new(), &mut |name, entry| {
        let group = if matches!(entry, EntryMut::Param { .. }) {
            "params"
        } else {
            "buffers"
        };
        let spec = &case.json[group][name];
        if spec.is_null() {
            // Only the count of batches starts where it is.
            if name != "num_batches_tracked" {
                complaints.push(format!("PyTorch has no {group} {name}"));
            }
            return;
        }
        let tensor = case.fixture.input(spec, dtype);
        if tensor.shape() != entry.tensor().shape() {
            complaints.push(format!(
                "{name} has shape {:?}, expected {:?}",
                entry.tensor().shape(),
                tensor.shape()
            ));
        }
        seen.push(name.to_owned());
        entry.set(tensor);
    });
    for group in ["params", "buffers"] {
        for name in case.json[group].as_object().unwrap().keys() {
            if !seen.contains(name) {
                complaints.push(format!("we have no {group} {name}"));
            }
        }
    }
    complaints
}

/// The layer `torch.nn.KIND(**attrs)`.
fn build(kind: &str, a: Attrs) -> Box<dyn Layer> {
    let (kernel, stride, padding) = (
        shape(a, "kernel_size", 1),
        shape(a, "stride", 1),
        shape(a, "padding", 0),
    );
    let channels = || (a.size("in_channels"), a.size("out_channels"));
    let dilation = shape(a, "dilation", 1);
    let groups = if a.has("groups") { a.size("groups") } else { 1 };
    macro_rules! conv {
        ($layer:ident) => {{
            let (inputs, outputs) = channels();
            let layer = $layer::new(inputs, outputs, kernel)
                .stride(stride)
                .padding(padding)
                .dilation(dilation);
            layer.groups(groups).bias(a.flag("bias", true))
        }};
    }
    macro_rules! pool {
        ($layer:ident) => {{
            let layer = $layer::new(kernel).padding(padding);
            Box::new(if a.has("stride") {
                layer.stride(stride)
            } else {
                layer
            })
        }};
    }
    macro_rules! batch_norm {
        ($layer:ident) => {{
            let mut layer = $layer::new(a.size("num_features")).eps(a.float_or("eps", 1e-5));
            if a.0.get("momentum").is_some() {
                layer = layer.momentum(a.0["momentum"].as_f64());
            }
            Box::new(
                layer
                    .affine(a.flag("affine", true))
                    .track_running_stats(a.flag("track_running_stats", true)),
            )
        }};
    }
    match kind {
        "Linear" => Box::new(
            Linear::new(a.size("in_features"), a.size("out_features")).bias(a.flag("bias", true)),
        ),
        "Conv1d" => Box::new(conv!(Conv1d)),
        "Conv2d" => Box::new(conv!(Conv2d)),
        "ConvTranspose2d" => {
            Box::new(conv!(ConvTranspose2d).output_padding(shape(a, "output_padding", 0)))
        }
        "MaxPool1d" => pool!(MaxPool1d),
        "MaxPool2d" => pool!(MaxPool2d),
        "AvgPool1d" => pool!(AvgPool1d),
        "AvgPool2d" => pool!(AvgPool2d),
        "AdaptiveAvgPool2d" => Box::new(AdaptiveAvgPool2d::new(a.size("output_size"))),
        "AdaptiveMaxPool2d" => Box::new(AdaptiveMaxPool2d::new(a.size("output_size"))),
        "BatchNorm1d" => batch_norm!(BatchNorm1d),
        "BatchNorm2d" => batch_norm!(BatchNorm2d),
        "LayerNorm" => {
            let layer = LayerNorm::new(a.sizes("normalized_shape")).eps(a.float_or("eps", 1e-5));
            Box::new(if a.flag("elementwise_affine", true) {
                layer.bias(a.flag("bias", true))
            } else {
                layer.affine(false)
            })
        }
        "Embedding" => {
            let layer = Embedding::new(a.size("num_embeddings"), a.size("embedding_dim"));
            Box::new(if a.has("padding_idx") {
                layer.padding_idx(a.size("padding_idx"))
            } else {
                layer
            })
        }
        "Flatten" if a.has("start_dim") => {
            Box::new(Flatten::new(a.int("start_dim"), a.int("end_dim")))
        }
        "Flatten" => Box::new(Flatten::default()),
        "Dropout" => Box::new(Dropout::new(a.float("p"))),
        _ => activation(kind, a),
    }
}

fn activation(kind: &str, a: Attrs) -> Box<dyn Layer> {
    match kind {
        "ReLU" => Box::new(ReLU),
        "LeakyReLU" => Box::new(LeakyReLU::new(a.float_or("negative_slope", 0.01))),
        "ELU" => Box::new(ELU::new(a.float_or("alpha", 1.0))),
        "GELU" if a.has("approximate") => Box::new(GELU::tanh()),
        "GELU" => Box::new(GELU::new()),
        "SiLU" => Box::new(SiLU),
        "Mish" => Box::new(Mish),
        "Softplus" => Box::new(Softplus::new(
            a.float_or("beta", 1.0),
            a.float_or("threshold", 20.0),
        )),
        "Sigmoid" => Box::new(Sigmoid),
        "Tanh" => Box::new(Tanh),
        "Softmax" => Box::new(Softmax::new(a.int("dim"))),
        "LogSoftmax" => Box::new(LogSoftmax::new(a.int("dim"))),
        "Hardswish" => Box::new(Hardswish),
        _ => panic!("the test knows no {kind}"),
    }
}

/// A size per axis, or one for all.
fn shape(a: Attrs, key: &str, default: usize) -> Shape {
    match &a.0[key] {
        Value::Null => Shape::from(default),
        Value::Number(n) => Shape::from(n.as_u64().unwrap() as usize),
        _ => Shape::from(a.sizes(key)),
    }
}

/// The network whose state dict PyTorch saved.
#[derive(Module)]
struct Net {
    features: Sequential,
    norm: LayerNorm,
    head: Linear,
}

impl Net {
    fn new() -> Net {
        let features = Sequential::new()
            .push(Conv2d::new(2, 4, 3).padding(1))
            .push(BatchNorm2d::new(4))
            .push(ReLU)
            .push(MaxPool2d::new(2))
            .push(Conv2d::new(4, 6, 3).padding(1).groups(2).bias(false))
            .push(ReLU)
            .push(AdaptiveAvgPool2d::new(1));
        Net {
            features,
            norm: LayerNorm::new(6),
            head: Linear::new(6, 3),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.features.forward(x).flatten(1, -1);
        self.head.forward(&self.norm.forward(&x))
    }
}

#[test]
fn a_state_dict_of_pytorch_loads_by_name() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/state_dict.safetensors"
    );
    let expected = Fixture::open(env!("CARGO_MANIFEST_DIR"), "state_dict_output");
    let mut net = Net::new();
    let names: Vec<String> = net.state_dict().into_iter().map(|(name, _)| name).collect();
    let saved: Vec<String> = serde_json::from_value(expected.meta("names")).unwrap();
    assert_eq!(names, saved, "names and order as in PyTorch");
    load(&mut net, path).expect("PyTorch's file loads");
    let y = net.forward(&expected.input(&expected.meta("input"), DType::F32));
    let want = expected.find("output").unwrap();
    assert_eq!(
        elements("output", &y.to_f64_vec(), &want.values, DType::F32, false),
        None
    );

    // What we save has the same names and bytes of tensors.
    let file = tempfile::NamedTempFile::new().unwrap();
    save(&net, file.path()).unwrap();
    let mut again = Net::new();
    load(&mut again, file.path()).unwrap();
    for ((name, a), (_, b)) in net.state_dict().iter().zip(again.state_dict()) {
        assert_eq!(a.to_f64_vec(), b.to_f64_vec(), "{name}");
        assert_eq!(a.dtype(), b.dtype(), "{name}");
    }
}
