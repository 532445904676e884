//! Recurrent layers and cells against PyTorch: outputs, last states and all gradients, in whole
//! sequences, in parts and of unequal lengths.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::*;
use fornax_tensor::testing::check_grads;
use fornax_tensor::{DType, Tensor, grad_of, manual_seed, record};
use support::compare::{check_grads as check_input_grads, check_outs, compare};
use support::{Attrs, Case, Fixture};

#[test]
fn recurrent_layers() {
    Fixture::open(env!("CARGO_MANIFEST_DIR"), "recurrent").check_all(check);
}

/// A layer or a cell, whatever states it has.
enum Net {
    Rnn(RNN),
    Lstm(LSTM),
    Gru(GRU),
    RnnCell(RNNCell),
    LstmCell(LSTMCell),
    GruCell(GRUCell),
}

impl Net {
    fn build(kind: &str, a: Attrs) -> Net {
        let (inputs, hidden) = (a.size("input_size"), a.size("hidden_size"));
        let layers = if a.has("num_layers") {
            a.size("num_layers")
        } else {
            1
        };
        macro_rules! layer {
            ($layer:ident) => {
                $layer::new(inputs, hidden)
                    .num_layers(layers)
                    .bias(a.flag("bias", true))
                    .batch_first(a.flag("batch_first", false))
                    .bidirectional(a.flag("bidirectional", false))
            };
        }
        let bias = a.flag("bias", true);
        match kind {
            "RNN" if a.has("nonlinearity") => {
                Net::Rnn(layer!(RNN).nonlinearity(RecurrentActivation::Relu))
            }
            "RNN" => Net::Rnn(layer!(RNN)),
            "LSTM" => Net::Lstm(layer!(LSTM)),
            "GRU" => Net::Gru(layer!(GRU)),
            "RNNCell" => Net::RnnCell(RNNCell::new(inputs, hidden).bias(bias)),
            "LSTMCell" => Net::LstmCell(LSTMCell::new(inputs, hidden).bias(bias)),
            "GRUCell" => Net::GruCell(GRUCell::new(inputs, hidden).bias(bias)),
            _ => panic!("the test knows no {kind}"),
        }
    }

    fn module(&mut self) -> &mut dyn Module {
        match self {
            Net::Rnn(net) => net,
            Net::Lstm(net) => net,
            Net::Gru(net) => net,
            Net::RnnCell(net) => net,
            Net::LstmCell(net) => net,
            Net::GruCell(net) => net,
        }
    }

    fn run(&self, x: &[Tensor], lengths: Option<&Tensor>) -> Vec<Tensor> {
        let one = x.get(1);
        let two = one.zip(x.get(2));
        match self {
            Net::Rnn(net) => <[Tensor; 2]>::from(net.run(&x[0], one, lengths)).to_vec(),
            Net::Gru(net) => <[Tensor; 2]>::from(net.run(&x[0], one, lengths)).to_vec(),
            Net::Lstm(net) => {
                let (y, (h, c)) = net.run(&x[0], two, lengths);
                vec![y, h, c]
            }
            Net::RnnCell(net) => vec![net.forward(&x[0], one)],
            Net::GruCell(net) => vec![net.forward(&x[0], one)],
            Net::LstmCell(net) => <[Tensor; 2]>::from(net.forward(&x[0], two)).to_vec(),
        }
    }
}

fn check(case: &Case, dtype: DType) -> Vec<String> {
    let mut net = Net::build(case.op(), case.attrs());
    let mut names = Vec::new();
    net.module()
        .visit_mut(&mut Path::new(), &mut |name, entry| {
            names.push(name.to_owned());
            entry.set(case.fixture.input(&case.json["params"][name], dtype));
        });
    let wanted: Vec<&String> = case.json["params"].as_object().unwrap().keys().collect();
    assert_eq!(names.len(), wanted.len(), "{names:?}, expected {wanted:?}");
    let lengths = case.attrs().has("lengths").then(|| {
        let lengths: Vec<i64> = (case.attrs().sizes("lengths").iter())
            .map(|&n| n as i64)
            .collect();
        Tensor::from_vec(lengths.clone(), [lengths.len()])
    });
    let leaves = case.leaves(dtype);
    let params: Vec<(String, Tensor)> = net.module().named_parameters();
    let targets: Vec<&Tensor> = leaves.iter().chain(params.iter().map(|p| &p.1)).collect();
    let (outs, grads) = record(|| {
        let outs = net.run(&leaves, lengths.as_ref());
        let grads = grad_of(&case.loss(&outs), &targets);
        (outs, grads)
    });
    let mut complaints = check_outs(case, &outs, dtype);
    let (of_inputs, of_params) = grads.split_at(leaves.len());
    complaints.extend(check_input_grads(case, of_inputs));
    for ((name, p), g) in params.iter().zip(of_params) {
        let key = format!("{}.p.{name}", case.index);
        complaints.extend(compare(case.fixture, &key, g, Some(p.shape()), false));
    }
    // Without a gradient to prepare for, the same numbers.
    let plain = net.run(&leaves, lengths.as_ref());
    for (a, b) in plain.iter().zip(&outs) {
        if a.to_f64_vec() != b.to_f64_vec() {
            complaints.push("other outputs without a recording".into());
        }
    }
    complaints
}

#[test]
fn gradients_of_gradients() {
    manual_seed(5);
    let rand = |shape: &[usize]| Tensor::randn(shape, DType::F64).eval().clone();
    let mut lstm = LSTM::new(2, 3).bidirectional(true);
    let mut gru = GRU::new(2, 3).num_layers(2);
    let mut rnn = RNN::new(2, 3);
    for net in [&mut lstm as &mut dyn Module, &mut gru, &mut rnn] {
        net.visit_mut(&mut Path::new(), &mut |_, entry| {
            let wide = entry.tensor().to_dtype(DType::F64);
            entry.set(wide);
        });
    }
    let lengths = Tensor::from_vec(vec![3i64, 2], [2]);
    let x = rand(&[3, 2, 2]);
    check_grads(
        |x| {
            let (y, (h, c)) = lstm.run(&x[0], Some((&x[1], &x[2])), Some(&lengths));
            y.square().sum(..) + (h * c).sum(..)
        },
        &[x.clone(), rand(&[2, 2, 3]), rand(&[2, 2, 3])],
    );
    check_grads(
        |x| {
            let (y, h) = gru.run(&x[0], Some(&x[1]), None);
            y.square().sum(..) + h.sum(..)
        },
        &[x.clone(), rand(&[2, 2, 3])],
    );
    check_grads(|x| rnn.forward(&x[0]).square(), &[x]);
}
