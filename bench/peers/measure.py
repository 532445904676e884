"""What the peers' runs have in common: the steps timed, and one JSON object like `fornax bench --json`."""

import json
import resource
import statistics
import time

WARMUP = 3
LEAST, ENOUGH_S, MOST = 5, 3.0, 300  # steps that count: at least so many, more until the time is over


def measure(args, framework, precision, step, parameters=0, work=None):
    """Times `step()`, which trains once and gives the loss, and prints the figures.

    `args` has the workload and the threads. `work` is how much a step gets done, and the unit of the rate.
    """
    times, losses, counted = [], [], 0.0
    while len(times) < WARMUP + LEAST or (counted < ENOUGH_S and len(times) < WARMUP + MOST):
        start = time.perf_counter()
        losses.append(step())
        times.append(time.perf_counter() - start)
        if len(times) > WARMUP:
            counted += times[-1]
    measured = [1e3 * t for t in times[WARMUP:]]
    median = statistics.median(measured)
    figures = {
        "workload": args.workload,
        "framework": framework,
        "precision": precision,
        "threads": args.threads,
        "parameters": parameters,
        "steps": len(measured),
        "median_ms": round(median, 4),
        "min_ms": round(min(measured), 4),
        "first_ms": round(1e3 * times[0], 2),
        "rate": rate(work, median),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "loss_first": losses[0],
        "loss_eighth": losses[WARMUP + LEAST - 1],
    }
    print(json.dumps(figures))


def rate(work, ms):
    if work is None:
        return None
    count, unit = work
    value = 1e6 * ms / count if unit == "ns/op" else 1e3 * count / ms
    return {"value": round(value, 1), "unit": unit}
