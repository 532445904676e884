#!/usr/bin/env python3
"""One workload in JAX: the whole step (loss, gradient, AdamW) is one jitted function with donated state.

python jax_peer.py mlp_b64 --threads 2
"""

import argparse
import itertools
import os
import sys

from measure import measure


def build(workload):
    """The parameters, the network and the batch of a workload."""
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.key(1), 64))

    def layer(*shape):
        """A weight and bias as PyTorch draws them: uniform within 1/sqrt(fan in)."""
        bound = 1.0 / float(jnp.prod(jnp.array(shape[1:]))) ** 0.5
        weight = jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)
        return weight, jax.random.uniform(next(keys), shape[:1], minval=-bound, maxval=bound)

    def dense(x, wb):
        return x @ wb[0].T + wb[1]

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

    batch, shape = {"mlp_b64": (64, (784,)), "mlp_b512": (512, (784,)), "lenet_b64": (64, (1, 28, 28))}[
        workload
    ]
    if workload == "lenet_b64":
        parameters = [layer(32, 1, 3, 3), layer(64, 32, 3, 3), layer(128, 3136), layer(10, 128)]
        network = lenet
    else:
        widths = [784, 256, 128, 10] if workload == "mlp_b64" else [784, 1024, 1024, 10]
        parameters = [layer(b, a) for a, b in itertools.pairwise(widths)]
        network = mlp
    x = jax.random.uniform(next(keys), (batch, *shape))
    return parameters, network, x, jax.random.randint(next(keys), (batch,), 0, 10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    args = parser.parse_args()
    if args.workload not in ("mlp_b64", "mlp_b512", "lenet_b64"):
        sys.exit(f"jax_peer: {args.workload} is not written for JAX")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={args.threads}"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    parameters, network, x, classes = build(args.workload)

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
        parameters, first, second = jax.tree.transpose(jax.tree.structure(parameters), None, done)
        return loss, (parameters, first, second, t)

    jitted = jax.jit(step, donate_argnums=0)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(0))

    def train():
        nonlocal state
        loss, state = jitted(state)
        loss = float(loss)
        # The loss may be there before the new parameters are.
        jax.block_until_ready(state)
        return loss

    measure(args, f"jax {jax.__version__} jit", "f32", train)


if __name__ == "__main__":
    main()
