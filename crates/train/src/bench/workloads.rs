//! The table of workloads.
//!
//! Each is a network with PyTorch's default initialisation and one fixed random batch. Training
//! steps are forward pass, gradients and update, by AdamW at 1e-3 with weight decay 0.01 unless
//! said; the loss is read after every step. `bench/peers/workloads.py` has the same in PyTorch.

use fornax_models::{
    Bert, BertConfig, BertInput, CausalLm, CharRnn, CharRnnConfig, Gpt2, Gpt2Config, LeNet,
    LeNetConfig, Mlp, MlpConfig, RecurrentKind, ResNet, ResNetConfig, Vit, VitConfig,
};
use fornax_nn::module::Module;
use fornax_nn::{AdamW, CrossEntropyLoss, Layer, Loss, Optimizer, SGD};
use fornax_tensor::{DType, Tensor, grad, value_and_grad};

use crate::error::Result;

/// One standard piece of work.
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What a step gets done, to be told as a rate.
    pub work: Work,
    pub(super) build: fn() -> Job,
}

/// What a step gets done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// One step.
    Step,
    /// So many dependent ops.
    Ops(usize),
    /// So many tokens.
    Tokens(usize),
}

/// A workload built: its weights, and the step. The step gives a number that the peers' step must
/// give as well: the loss, or the mean of what a network put out.
pub(super) struct Job {
    pub parameters: usize,
    pub step: Box<dyn FnMut() -> Result<f64>>,
}

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "mlp_b64",
        about: "784-256-128-10, ReLU, batch 64",
        work: Work::Step,
        build: || classify(mlp([256, 128]), images([64, 784]), adamw()),
    },
    Workload {
        name: "mlp_b512",
        about: "784-1024-1024-10, ReLU, batch 512",
        work: Work::Step,
        build: || classify(mlp([1024, 1024]), images([512, 784]), adamw()),
    },
    Workload {
        name: "lenet_b64",
        about: "two 3x3 convolutions (32, 64), two 2x2 poolings, 3136-128-10, ReLU, batch 64",
        work: Work::Step,
        build: || classify(lenet(), images([64, 1, 28, 28]), adamw()),
    },
    Workload {
        name: "resnet18_cifar_b32",
        about: "ResNet-18, 3x3 stem, no max-pool, 32 images of 3x32x32, SGD 0.1 momentum 0.9",
        work: Work::Step,
        build: || {
            let config = ResNetConfig {
                classes: 10,
                small_images: true,
                ..ResNetConfig::resnet18()
            };
            let optimizer = SGD::new(0.1).momentum(0.9);
            classify(resnet(&config), images([32, 3, 32, 32]), optimizer)
        },
    },
    Workload {
        name: "lstm_h256_t64_b32",
        about: "two LSTM layers of 256 over vectors of 256, 65 characters, 32 texts of 64",
        work: Work::Step,
        build: || language(char_rnn(RecurrentKind::Lstm), 65, [32, 64]),
    },
    Workload {
        name: "gru_h256_t64_b32",
        about: "two GRU layers of 256 over vectors of 256, 65 characters, 32 texts of 64",
        work: Work::Step,
        build: || language(char_rnn(RecurrentKind::Gru), 65, [32, 64]),
    },
    Workload {
        name: "gpt_nano_b12",
        about: "GPT: 4 layers, 4 heads, width 128, context 64, 65 tokens, batch 12",
        work: Work::Step,
        build: || language(gpt(65, 64, 4, 4, 128), 65, [12, 64]),
    },
    Workload {
        name: "gpt_baby_b16",
        about: "GPT: 6 layers, 6 heads, width 384, context 256, 65 tokens, batch 16",
        work: Work::Step,
        build: || language(gpt(65, 256, 6, 6, 384), 65, [16, 256]),
    },
    Workload {
        name: "gpt2_124m_b1t256",
        about: "GPT-2 of 124 million weights, one text of 256 tokens",
        work: Work::Step,
        build: || language(gpt(50257, 256, 12, 12, 768), 50257, [1, 256]),
    },
    Workload {
        name: "vit_tiny_cifar_b32",
        about: "ViT: patches of 4x4, 6 layers, 3 heads, width 192, mean of the patches, 32 images of 3x32x32",
        work: Work::Step,
        build: || {
            let model = Vit::new(&VitConfig::tiny(10)).expect(SIZES);
            classify(model, images([32, 3, 32, 32]), adamw())
        },
    },
    Workload {
        name: "resnet50_224_b1",
        about: "inference: ResNet-50 on one image of 3x224x224",
        work: Work::Step,
        build: || infer(resnet(&ResNetConfig::resnet50()), images([1, 3, 224, 224])),
    },
    Workload {
        name: "bert_base_s128_b1",
        about: "inference: BERT-Base on one text of 128 tokens",
        work: Work::Step,
        build: || bert([1, 128]),
    },
    Workload {
        name: "bert_base_s128_b8",
        about: "inference: BERT-Base on 8 texts of 128 tokens",
        work: Work::Step,
        build: || bert([8, 128]),
    },
    Workload {
        name: "gpt2_decode",
        about: "inference: 128 tokens of GPT-2 (124 million weights), one by one, after 32",
        work: Work::Tokens(128),
        build: || decode(32, 128),
    },
    Workload {
        name: "overhead",
        about: "forward and gradient of 100 dependent ops on 64 floats",
        work: Work::Ops(100),
        build: overhead,
    },
];

const SIZES: &str = "the workload's sizes are right";

fn adamw() -> AdamW {
    AdamW::new(1e-3).weight_decay(0.01)
}

/// Training steps on one batch: `loss` of the model, its gradients, the update.
fn train<M: Module + 'static>(
    mut model: M,
    mut optimizer: impl Optimizer + 'static,
    loss: impl Fn(&M) -> Tensor + 'static,
) -> Job {
    Job {
        parameters: parameters(&model),
        step: Box::new(move || {
            let (loss, grads) = value_and_grad(&model, &loss);
            optimizer.step(&mut model, grads)?;
            Ok(loss.item())
        }),
    }
}

/// Training with cross-entropy against random ones of 10 classes.
fn classify<M: Layer + 'static>(model: M, x: Tensor, optimizer: impl Optimizer + 'static) -> Job {
    let y = fixed(Tensor::randint(0, 10, [x.dim(0)]));
    train(model, optimizer, move |model| {
        CrossEntropyLoss::default().forward(&model.forward(&x), &y)
    })
}

/// Forward passes alone.
fn infer<M: Layer + 'static>(model: M, x: Tensor) -> Job {
    Job {
        parameters: parameters(&model),
        step: Box::new(move || Ok(model.forward(&x).mean(..).item())),
    }
}

/// Training with cross-entropy against random tokens at every position.
fn language<M: Layer + 'static>(model: M, vocabulary: usize, shape: [usize; 2]) -> Job {
    let [ids, targets] = [0; 2].map(|_| tokens(vocabulary, shape));
    let targets = fixed(targets.reshape([shape[0] * shape[1]]));
    train(model, adamw(), move |model| {
        let logits = model.forward(&ids).reshape([targets.numel(), vocabulary]);
        CrossEntropyLoss::default().forward(&logits, &targets)
    })
}

fn bert(shape: [usize; 2]) -> Job {
    let config = BertConfig::default();
    let ids = tokens(config.vocab_size, shape);
    let model = Bert::new(&config).expect(SIZES);
    Job {
        parameters: parameters(&model),
        step: Box::new(move || {
            let hidden = model.forward(&ids, BertInput::default());
            Ok(hidden.mean(..).item())
        }),
    }
}

/// The most likely token again and again, with the keys and values of all before it kept.
fn decode(prompt: usize, new: usize) -> Job {
    let config = Gpt2Config::default();
    let ids = tokens(config.vocab_size, [1, prompt]);
    let model = Gpt2::new(&config).expect(SIZES);
    Job {
        parameters: parameters(&model),
        step: Box::new(move || {
            let mut cache = model.init_cache(1, prompt + new);
            let mut next = ids.clone();
            for _ in 0..new {
                next = model
                    .decode_step(&next, &mut cache)
                    .argmax(-1)
                    .reshape([1, 1]);
                next.eval();
            }
            Ok(next.item())
        }),
    }
}

fn overhead() -> Job {
    let x = fixed(Tensor::rand([64], DType::F32));
    Job {
        parameters: 0,
        step: Box::new(move || {
            let chain = |x: &Tensor| (0..50).fold(x.clone(), |h, _| (h * 1.01).tanh()).sum(..);
            Ok(grad(&x, chain).sum(..).item())
        }),
    }
}

fn parameters<M: Module + ?Sized>(model: &M) -> usize {
    let all = model.named_parameters();
    all.iter().map(|(_, tensor)| tensor.numel()).sum()
}

fn mlp<const N: usize>(hidden: [usize; N]) -> Mlp {
    Mlp::new(&MlpConfig::new(784, hidden, 10)).expect(SIZES)
}

fn lenet() -> LeNet {
    LeNet::new(&LeNetConfig::default()).expect(SIZES)
}

fn resnet(config: &ResNetConfig) -> ResNet {
    ResNet::new(config).expect(SIZES)
}

/// Of the default sizes: two layers of 256.
fn char_rnn(kind: RecurrentKind) -> CharRnn {
    let config = CharRnnConfig {
        kind,
        ..CharRnnConfig::default()
    };
    CharRnn::new(&config).expect(SIZES)
}

/// Without dropout.
fn gpt(vocabulary: usize, context: usize, layers: usize, heads: usize, width: usize) -> Gpt2 {
    let config = Gpt2Config {
        vocab_size: vocabulary,
        n_positions: context,
        n_layer: layers,
        n_head: heads,
        n_embd: width,
        ..Gpt2Config::default().without_dropout()
    };
    Gpt2::new(&config).expect(SIZES)
}

/// Random tokens.
fn tokens(vocabulary: usize, shape: [usize; 2]) -> Tensor {
    fixed(Tensor::randint(0, vocabulary as i64, shape))
}

/// Numbers from 0 to 1, as pixels are.
fn images<const N: usize>(shape: [usize; N]) -> Tensor {
    fixed(Tensor::rand(shape, DType::F32))
}

/// The tensor, computed.
fn fixed(x: Tensor) -> Tensor {
    x.eval();
    x
}
