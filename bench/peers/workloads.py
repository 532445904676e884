"""The benchmark's workloads in PyTorch: each builder returns a `Job`.

A job is a model, a fixed random batch, a loss, and an optimizer: the same work as `fornax bench NAME`.
Every network has PyTorch's default initialisation (Transformers that of the `transformers` package); the batch
is drawn once and never changes. A job without an
optimizer is inference: its step is the forward pass, and gives the mean of the output.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Job:
    """One training step's ingredients; `forward(model)` gives the scalar loss."""

    model: nn.Module
    forward: Callable[[nn.Module], torch.Tensor]
    optimizer: str | None = "adamw"
    work: tuple[int, str] | None = None  # how much a step gets done, of what: to be told as a rate


def classify(model, inputs, classes, optimizer="adamw"):
    """Cross-entropy of `model(inputs)` against random classes."""
    targets = torch.randint(0, classes, (inputs.shape[0],))
    return Job(model, lambda m: F.cross_entropy(m(inputs), targets), optimizer)


def mlp(batch, *widths):
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(a, b)] + ([nn.ReLU()] if i + 2 < len(widths) else [])
    return classify(nn.Sequential(*layers), torch.rand(batch, widths[0]), widths[-1])


def lenet(batch):
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return classify(model, torch.rand(batch, 1, 28, 28), 10)


def resnet18_cifar(batch):
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return classify(model, torch.rand(batch, 3, 32, 32), 10, "sgd")


class CharRnn(nn.Module):
    def __init__(self, cell, vocabulary, width):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = cell(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])


def next_token(model, batch, time, vocabulary):
    """Cross-entropy at every position of a random token batch."""
    tokens = torch.randint(0, vocabulary, (batch, time))
    targets = torch.randint(0, vocabulary, (batch, time)).flatten()
    return Job(model, lambda m: F.cross_entropy(m(tokens).flatten(0, 1), targets))


def rnn(cell):
    return next_token(CharRnn(cell, 65, 256), 32, 64, 65)


class Attention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self, width, heads, hidden, causal, gelu):
        super().__init__()
        self.ln1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, width)
        )

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


def draw_small(model):
    """The starting weights of Transformers: normal with a deviation of 0.02, no biases."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Embedding, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


class Gpt(nn.Module):
    """GPT-2's network: learned positions, tanh GELU, head tied to the token embedding."""

    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads, 4 * width, True, "tanh") for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        draw_small(self)
        for block in self.blocks:
            for layer in (block.attention.out, block.mlp[2]):
                nn.init.normal_(layer.weight, std=0.02 / (2 * layers) ** 0.5)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def gpt(vocabulary, batch, context, layers, heads, width):
    return next_token(Gpt(vocabulary, context, layers, heads, width), batch, context, vocabulary)


class Vit(nn.Module):
    def __init__(self, size, patch, width, layers, heads, hidden, classes):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, hidden, False, "none") for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        draw_small(self)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def infer(model, forward, work=None):
    return Job(model.eval(), torch.inference_mode()(forward), optimizer=None, work=work)


def resnet50(batch):
    from torchvision.models import resnet50

    x = torch.rand(batch, 3, 224, 224)
    return infer(resnet50(), lambda m: m(x).mean())


def bert(batch, time):
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(), add_pooling_layer=False)
    tokens = torch.randint(0, 30522, (batch, time))
    return infer(model, lambda m: m(tokens).last_hidden_state.mean())


def gpt2_decode(prompt, new):
    """Greedy tokens after a prompt, with a cache of keys and values."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config())
    tokens = torch.randint(0, 50257, (1, prompt))

    def forward(m):
        past, given = None, tokens
        for _ in range(new):
            out = m(given, past_key_values=past, use_cache=True)
            past, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
        return given.float().mean()

    return infer(model, forward, (new, "tokens/s"))


class Chain(nn.Module):
    """100 dependent ops, and their gradient."""

    def forward(self, x):
        h = x
        for _ in range(50):
            h = torch.tanh(h * 1.01)
        return h.sum()


def overhead():
    x = torch.rand(64).requires_grad_()

    def forward(m):
        return torch.autograd.grad(m(x), x)[0].sum()

    return Job(Chain(), forward, optimizer=None, work=(100, "ns/op"))


WORKLOADS = {
    "mlp_b64": lambda: mlp(64, 784, 256, 128, 10),
    "mlp_b512": lambda: mlp(512, 784, 1024, 1024, 10),
    "lenet_b64": lambda: lenet(64),
    "resnet18_cifar_b32": lambda: resnet18_cifar(32),
    "lstm_h256_t64_b32": lambda: rnn(nn.LSTM),
    "gru_h256_t64_b32": lambda: rnn(nn.GRU),
    "gpt_nano_b12": lambda: gpt(65, 12, 64, 4, 4, 128),
    "gpt_baby_b16": lambda: gpt(65, 16, 256, 6, 6, 384),
    "gpt2_124m_b1t256": lambda: gpt(50257, 1, 256, 12, 12, 768),
    "vit_tiny_cifar_b32": lambda: classify(Vit(32, 4, 192, 6, 3, 768, 10), torch.rand(32, 3, 32, 32), 10),
    "resnet50_224_b1": lambda: resnet50(1),
    "bert_base_s128_b1": lambda: bert(1, 128),
    "bert_base_s128_b8": lambda: bert(8, 128),
    "gpt2_decode": lambda: gpt2_decode(32, 128),
    "overhead": overhead,
}


def make_optimizer(name, parameters):
    """The benchmark's optimizers, fused where this PyTorch has a fused CPU kernel."""
    parameters = list(parameters)
    for options in ({"fused": True}, {"foreach": True}, {}):
        try:
            if name == "sgd":
                return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, **options)
            return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, **options)
        except (RuntimeError, TypeError):
            continue
    raise RuntimeError(f"no {name} optimizer in this PyTorch")
