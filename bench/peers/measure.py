"""What the peers' runs have in common: the steps timed, and one JSON object like `fornax bench --json`."""

import json
import resource
import statistics
import time


def measure(args, framework, precision, step):
    """Times `step()`, which trains once and gives the loss, and prints the figures.

    `args` has the workload, the threads, the steps that count and those before them.
    """
    times, losses = [], []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        losses.append(step())
        times.append(1e3 * (time.perf_counter() - start))
    measured = times[args.warmup :]
    figures = {
        "workload": args.workload,
        "framework": framework,
        "precision": precision,
        "threads": args.threads,
        "median_ms": round(statistics.median(measured), 4),
        "min_ms": round(min(measured), 4),
        "first_ms": round(times[0], 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }
    print(json.dumps(figures))
