#!/usr/bin/env python3
"""What the closed-form (least-squares) start of the variants saves in distillation tokens.

    bench_init.py TANGRAM CONFIG.yaml WORK_FOLDER [TOKENS ...]

Distils every variant of the config from each start (distill.init: least_squares, prune, random) with budgets of tokens
that double, each with a whole learning-rate schedule of its own, and compares the losses of the last steps: the
geometric mean over all layers, by kind of variant. The saving is how many times as many tokens a start needs until it
has the loss that the closed form has with one budget, interpolated between the budgets in log-log.
"""

import collections
import csv
import math
import os
import re
import subprocess
import sys

INITS = ["least_squares", "prune", "random"]
LAST_STEPS = 8


def distil(tangram, config, folder, init, tokens):
    """(kind of variant -> loss before the first update, kind -> loss at the end), geometric means over the layers."""
    common = ["--run-dir", folder, "--quiet", "--set", f"distill.init={init}", "--set", f"distill.tokens={tokens}"]
    for stage in ["prepare", "distill"]:
        subprocess.run([tangram, stage, config, *common], check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(folder, "distill.csv")) as file:
        names, *rows = list(csv.reader(file))
    first, last = collections.defaultdict(list), collections.defaultdict(list)
    for i, name in enumerate(names):
        if name == "step":
            continue
        kind = re.sub(r"^\d+\.", "", name)
        first[kind].append(float(rows[0][i]))
        last[kind].append(sum(float(row[i]) for row in rows[-LAST_STEPS:]) / LAST_STEPS)
    mean = lambda losses: math.exp(sum(map(math.log, losses)) / len(losses))
    return {k: mean(v) for k, v in first.items()}, {k: mean(v) for k, v in last.items()}


def tokens_until(budgets, losses, goal):
    """Budget at which the losses reach `goal`: text, since it may lie outside what was measured."""
    if losses[0] <= goal:
        return f"< {budgets[0]:.0f}"
    for (b0, l0), (b1, l1) in zip(zip(budgets, losses), zip(budgets[1:], losses[1:])):
        if l1 <= goal:
            part = math.log(l0 / goal) / math.log(l0 / l1)
            return f"{b0 * (b1 / b0) ** part:.0f}"
    return f"> {budgets[-1]:.0f}"


def main():
    tangram, config, work = sys.argv[1:4]
    budgets = [int(float(t)) for t in sys.argv[4:]] or [32768 * 2**i for i in range(5)]
    curves = collections.defaultdict(lambda: collections.defaultdict(list))
    starts = collections.defaultdict(dict)
    for init in INITS:
        for tokens in budgets:
            first, last = distil(tangram, config, os.path.join(work, f"{init}-{tokens}"), init, tokens)
            for kind in last:
                starts[kind][init] = first[kind]
                curves[kind][init].append(last[kind])
            print(f"{init} {tokens} tokens done", file=sys.stderr)
    print("Loss ||y - y_t||^2 / ||y_t||^2, geometric mean over the layers")
    print(f"{'variant':24} {'start':14} {'untrained':>10} " + " ".join(f"{b:>9}" for b in budgets))
    for kind in curves:
        for init in INITS:
            losses = " ".join(f"{loss:9.5f}" for loss in curves[kind][init])
            print(f"{kind:24} {init:14} {starts[kind][init]:10.5f} {losses}")
    print("\nTokens that another start needs for what the closed form has")
    print(f"{'variant':24} {'start':14} {'untrained':>10} " + " ".join(f"{b:>9}" for b in budgets))
    for kind in curves:
        for init in INITS[1:]:
            goals = [starts[kind]["least_squares"], *curves[kind]["least_squares"]]
            needed = [tokens_until(budgets, curves[kind][init], goal) for goal in goals]
            print(f"{kind:24} {init:14} {needed[0]:>10} " + " ".join(f"{n:>9}" for n in needed[1:]))


main()
