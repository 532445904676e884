//! The table of workloads.
//!
//! Each is a network with PyTorch's default initialisation and one fixed random batch. Training
//! steps are forward pass, gradients and update, by AdamW at 1e-3 with weight decay 0.01 unless
//! said; the loss is read after every step. `bench/peers/workloads.py` has the same in PyTorch.

use fornax_models::{LeNet, LeNetConfig, Mlp, MlpConfig, ResNet, ResNetConfig};
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
        name: "resnet50_224_b1",
        about: "inference: ResNet-50 on one image of 3x224x224",
        work: Work::Step,
        build: || infer(resnet(&ResNetConfig::resnet50()), images([1, 3, 224, 224])),
    },
    Workload {
        name: "overhead",
        about: "forward and gradient of 100 dependent ops on 64 floats",
        work: Work::Ops(100),
        build: overhead,
    },
];

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
    Mlp::new(&MlpConfig::new(784, hidden, 10)).expect("the workload's sizes are right")
}

fn lenet() -> LeNet {
    LeNet::new(&LeNetConfig::default()).expect("the workload's sizes are right")
}

fn resnet(config: &ResNetConfig) -> ResNet {
    ResNet::new(config).expect("the workload's sizes are right")
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
