#!/usr/bin/env python3
"""One workload, one way of running it, in PyTorch; prints one JSON object like `fornax bench --json`.

    python torch_peer.py mlp_b64 --mode compile --precision bf16 --threads 2

Each run is its own process, so that the peak memory and the first step are this workload's alone.
"""

import argparse

import torch
from measure import measure
from workloads import WORKLOADS, make_optimizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    job = WORKLOADS[args.workload]()
    model = torch.compile(job.model) if args.mode == "compile" else job.model
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16")
    parameters = list(job.model.parameters())
    optimizer = job.optimizer and make_optimizer(job.optimizer, parameters)

    def train():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = job.forward(model)
        loss.backward()
        optimizer.step()
        return loss.item()

    def compute():
        with autocast:
            return job.forward(model).item()

    count = sum(p.numel() for p in parameters)
    framework = f"torch {torch.__version__} {args.mode}"
    measure(args, framework, args.precision, train if optimizer else compute, count, job.work)


if __name__ == "__main__":
    main()
