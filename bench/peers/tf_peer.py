#!/usr/bin/env python3
"""One workload in TensorFlow: the whole step (loss, gradient, AdamW) is one graph, compiled by XLA or not.

python tf_peer.py mlp_b64 --mode xla --threads 2
"""

import argparse
import itertools
import os

from measure import measure

# Vocabulary, batch, time, blocks, heads, width.
GPTS = {
    "gpt_nano_b12": (65, 12, 64, 4, 4, 128),
    "gpt_baby_b16": (65, 16, 256, 6, 6, 384),
}
WORKLOADS = ["mlp_b64", "mlp_b512", "lenet_b64", "lstm_h256_t64_b32", *GPTS]


class Model:
    """Variables, drawn as PyTorch draws them, and layers that read them.

    Those of a GPT are drawn as the `transformers` package does.
    """

    def __init__(self, tf):
        self.tf, self.variables = tf, []

    def variable(self, value):
        self.variables.append(self.tf.Variable(value))
        return self.variables[-1]

    def uniform(self, shape, fan_in):
        bound = fan_in**-0.5
        return self.variable(self.tf.random.uniform(shape, -bound, bound))

    def dense(self, inputs, outputs):
        w, b = self.uniform((inputs, outputs), inputs), self.uniform((outputs,), inputs)
        return lambda x: self.tf.matmul(x, w) + b

    def small(self, inputs, outputs, std=0.02):
        w = self.variable(std * self.tf.random.normal((inputs, outputs)))
        b = self.variable(self.tf.zeros(outputs))
        return lambda x: self.tf.matmul(x, w) + b

    def conv(self, inputs, outputs):
        fan_in = 9 * inputs
        w, b = self.uniform((3, 3, inputs, outputs), fan_in), self.uniform((outputs,), fan_in)
        return lambda x: self.tf.nn.conv2d(x, w, 1, "SAME") + b

    def norm(self, width):
        w, b = self.variable(self.tf.ones(width)), self.variable(self.tf.zeros(width))

        def forward(x):
            mean, var = self.tf.nn.moments(x, -1, keepdims=True)
            return (x - mean) * self.tf.math.rsqrt(var + 1e-5) * w + b

        return forward


def mlp(tf, batch, *widths):
    model = Model(tf)
    layers = [model.dense(a, b) for a, b in itertools.pairwise(widths)]

    def network(x):
        for layer in layers[:-1]:
            x = tf.nn.relu(layer(x))
        return layers[-1](x)

    return model.variables, network, tf.random.uniform((batch, widths[0])), classes(tf, batch, widths[-1])


def lenet(tf):
    model = Model(tf)
    convs = [model.conv(1, 32), model.conv(32, 64)]
    hidden, head = model.dense(3136, 128), model.dense(128, 10)

    def network(x):
        for conv in convs:
            x = tf.nn.max_pool2d(tf.nn.relu(conv(x)), 2, 2, "VALID")
        return head(tf.nn.relu(hidden(tf.reshape(x, (64, -1)))))

    # Channels last: TensorFlow has no other convolution on CPUs.
    return model.variables, network, tf.random.uniform((64, 28, 28, 1)), classes(tf, 64, 10)


def lstm(tf):
    model = Model(tf)
    table = model.variable(tf.random.normal((65, 256)))
    layers = [tf.keras.layers.LSTM(256, return_sequences=True) for _ in range(2)]
    head = model.dense(256, 65)
    tokens = tf.random.uniform((32, 64), 0, 65, tf.int64)
    for layer in layers:
        layer.build((32, 64, 256))
        model.variables += [v.value for v in layer.trainable_variables]

    def network(tokens):
        x = tf.gather(table, tokens)
        for layer in layers:
            x = layer(x)
        return tf.reshape(head(x), (32 * 64, 65))

    return model.variables, network, tokens, classes(tf, 32 * 64, 65)


def gpt(tf, vocabulary, batch, time, blocks, heads, width):
    model = Model(tf)
    tokens, positions = (model.variable(0.02 * tf.random.normal((n, width))) for n in (vocabulary, time))
    hidden = tf.linalg.band_part(tf.ones((time, time)), -1, 0) < 0.5

    def block():
        added = 0.02 / (2 * blocks) ** 0.5
        ln1, qkv, out = model.norm(width), model.small(width, 3 * width), model.small(width, width, added)
        ln2, up, down = model.norm(width), model.small(width, 4 * width), model.small(4 * width, width, added)

        def forward(x):
            q, k, v = tf.unstack(tf.reshape(qkv(ln1(x)), (batch, time, 3, heads, -1)), axis=2)
            scores = tf.einsum("bqhd,bkhd->bhqk", q, k) * (width // heads) ** -0.5
            weights = tf.nn.softmax(tf.where(hidden, -1e9, scores))
            y = tf.reshape(tf.einsum("bhqk,bkhd->bqhd", weights, v), (batch, time, width))
            x = x + out(y)
            return x + down(tf.nn.gelu(up(ln2(x)), approximate=True))

        return forward

    layers = [block() for _ in range(blocks)]
    norm = model.norm(width)

    def network(ids):
        x = tf.gather(tokens, ids) + positions
        for layer in layers:
            x = layer(x)
        return tf.reshape(tf.matmul(norm(x), tokens, transpose_b=True), (batch * time, vocabulary))

    ids = tf.random.uniform((batch, time), 0, vocabulary, tf.int64)
    return model.variables, network, ids, classes(tf, batch * time, vocabulary)


def classes(tf, count, high):
    return tf.random.uniform((count,), 0, high, tf.int64)


def build(tf, workload):
    """Variables, network, batch, targets."""
    if workload in GPTS:
        return gpt(tf, *GPTS[workload])
    return {
        "mlp_b64": lambda: mlp(tf, 64, 784, 256, 128, 10),
        "mlp_b512": lambda: mlp(tf, 512, 784, 1024, 1024, 10),
        "lenet_b64": lambda: lenet(tf),
        "lstm_h256_t64_b32": lambda: lstm(tf),
    }[workload]()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--mode", choices=["graph", "xla"], default="graph")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(1)
    variables, network, x, targets = build(tf, args.workload)
    first = [tf.Variable(tf.zeros_like(v)) for v in variables]
    second = [tf.Variable(tf.zeros_like(v)) for v in variables]
    count = tf.Variable(0.0)

    @tf.function(jit_compile=args.mode == "xla")
    def step():
        with tf.GradientTape() as tape:
            rows = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, network(x))
            loss = tf.reduce_mean(rows)
        grads = tape.gradient(loss, variables)
        t = count.assign_add(1.0)
        for p, g, m, v in zip(variables, grads, first, second):
            g = tf.convert_to_tensor(g)
            m.assign(0.9 * m + 0.1 * g)
            v.assign(0.999 * v + 0.001 * g * g)
            update = (m / (1 - 0.9**t)) / (tf.sqrt(v / (1 - 0.999**t)) + 1e-8)
            p.assign(p * (1 - 1e-3 * 0.01) - 1e-3 * update)
        return loss

    weights = sum(int(tf.size(v)) for v in variables)
    measure(args, f"tensorflow {tf.__version__} {args.mode}", "f32", lambda: float(step()), weights)


if __name__ == "__main__":
    main()
