#!/usr/bin/env python3
"""One workload in JAX: the whole step (loss, gradient, AdamW) is one jitted function with donated state.

python jax_peer.py mlp_b64 --threads 2
"""

import argparse
import itertools
import os

from measure import measure

# Vocabulary, batch, time, blocks, heads, width.
GPTS = {
    "gpt_nano_b12": (65, 12, 64, 4, 4, 128),
    "gpt_baby_b16": (65, 16, 256, 6, 6, 384),
    "gpt2_124m_b1t256": (50257, 1, 256, 12, 12, 768),
}
WORKLOADS = ["mlp_b64", "mlp_b512", "lenet_b64", *GPTS]


class Draw:
    """Starting weights, as PyTorch draws them (or, those of a GPT, the `transformers` package)."""

    def __init__(self, jax, jnp):
        self.jax, self.jnp = jax, jnp
        self.keys = (jax.random.key(i) for i in itertools.count(1))

    def layer(self, *shape):
        """A weight and bias: uniform within 1/sqrt(fan in)."""
        fan_in = 1
        for size in shape[1:]:
            fan_in *= size
        bound = fan_in**-0.5
        weight = self.jax.random.uniform(next(self.keys), shape, minval=-bound, maxval=bound)
        return weight, self.jax.random.uniform(next(self.keys), shape[:1], minval=-bound, maxval=bound)

    def table(self, *shape, std=0.02):
        return std * self.jax.random.normal(next(self.keys), shape)

    def small(self, outputs, inputs, std=0.02):
        return self.table(outputs, inputs, std=std), self.jnp.zeros(outputs)

    def norm(self, width):
        return self.jnp.ones(width), self.jnp.zeros(width)

    def uniform(self, *shape):
        return self.jax.random.uniform(next(self.keys), shape)

    def integers(self, high, *shape):
        return self.jax.random.randint(next(self.keys), shape, 0, high)


def dense(x, wb):
    return x @ wb[0].T + wb[1]


def classifier(workload, draw, jax, jnp):
    """The parameters, the network, and the batch of an MLP or of LeNet."""

    def conv(x, wb):
        y = jax.lax.conv_general_dilated(x, wb[0], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return y + wb[1][:, None, None]

    def halve(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def mlp(parameters, x):
        for wb in parameters[:-1]:
            x = jax.nn.relu(dense(x, wb))
        return dense(x, parameters[-1])

    def lenet(parameters, x):
        for wb in parameters[:2]:
            x = halve(jax.nn.relu(conv(x, wb)))
        return mlp(parameters[2:], x.reshape(x.shape[0], -1))

    if workload == "lenet_b64":
        shapes = [(32, 1, 3, 3), (64, 32, 3, 3), (128, 3136), (10, 128)]
        return [draw.layer(*shape) for shape in shapes], lenet, draw.uniform(64, 1, 28, 28), draw.integers(10, 64)
    batch, widths = (64, [784, 256, 128, 10]) if workload == "mlp_b64" else (512, [784, 1024, 1024, 10])
    parameters = [draw.layer(b, a) for a, b in itertools.pairwise(widths)]
    return parameters, mlp, draw.uniform(batch, 784), draw.integers(10, batch)


def gpt(workload, draw, jax, jnp):
    """The same of a GPT: pre-LN, learned positions, tanh GELU, head tied to the token embedding."""
    vocabulary, batch, time, blocks, heads, width = GPTS[workload]

    def block():
        return {
            "ln1": draw.norm(width),
            "qkv": draw.small(3 * width, width),
            "out": draw.small(width, width, 0.02 / (2 * blocks) ** 0.5),
            "ln2": draw.norm(width),
            "up": draw.small(4 * width, width),
            "down": draw.small(width, 4 * width, 0.02 / (2 * blocks) ** 0.5),
        }

    parameters = {
        "tokens": draw.table(vocabulary, width),
        "positions": draw.table(time, width),
        "blocks": [block() for _ in range(blocks)],
        "norm": draw.norm(width),
    }

    def norm(x, wb):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * wb[0] + wb[1]

    def network(p, tokens):
        x = p["tokens"][tokens] + p["positions"]
        for layer in p["blocks"]:
            qkv = dense(norm(x, layer["ln1"]), layer["qkv"]).reshape(batch, time, 3, heads, -1)
            y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
            x = x + dense(y.reshape(batch, time, width), layer["out"])
            hidden = jax.nn.gelu(dense(norm(x, layer["ln2"]), layer["up"]), approximate=True)
            x = x + dense(hidden, layer["down"])
        return (norm(x, p["norm"]) @ p["tokens"].T).reshape(batch * time, vocabulary)

    tokens = draw.integers(vocabulary, batch, time)
    return parameters, network, tokens, draw.integers(vocabulary, batch * time)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={args.threads}"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    build = gpt if args.workload in GPTS else classifier
    parameters, network, x, classes = build(args.workload, Draw(jax, jnp), jax, jnp)

    def loss_of(parameters):
        rows = jax.nn.log_softmax(network(parameters, x))
        return -jnp.take_along_axis(rows, classes[:, None], 1).mean()

    def adamw(p, g, m, v, t):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p * (1 - 1e-3 * 0.01) - 1e-3 * update, m, v

    def step(state):
        parameters, first, second, t = state
        t = t + 1
        loss, grads = jax.value_and_grad(loss_of)(parameters)
        done = jax.tree.map(lambda p, g, m, v: adamw(p, g, m, v, t), parameters, grads, first, second)
        inner = jax.tree.structure((0, 0, 0))
        return loss, (*jax.tree.transpose(jax.tree.structure(parameters), inner, done), t)

    jitted = jax.jit(step, donate_argnums=0)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(0))
    count = sum(p.size for p in jax.tree.leaves(parameters))

    def train():
        nonlocal state
        loss, state = jitted(state)
        loss = float(loss)
        # The loss may be there before the new parameters are.
        jax.block_until_ready(state)
        return loss

    measure(args, f"jax {jax.__version__} jit", "f32", train, count)


if __name__ == "__main__":
    main()
