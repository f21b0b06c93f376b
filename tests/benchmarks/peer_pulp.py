#!/usr/bin/env python3
"""Peer for the benchmark of the search: PuLP driving the CBC that comes with it, as puzzletron's search does.

    peer_pulp.py [--threads N] WORK...

A WORK is "search:FILE", a problem as bench_search.cpp writes it: JSON with layer_count, maxima (limits), and entries of
slots, objective and costs. For each a line

    WORK<tab>PuLP 3.3.2<tab>milliseconds<tab>status<tab>objective

is printed as soon as it is solved: the time of building the program in Python and of solving it to the optimum.
"""

import argparse
import json
import sys
import time

try:
    import pulp
except ImportError:
    sys.exit(0)  # one of the Pythons that other benchmarks want


def solve(problem, seconds):
    model = pulp.LpProblem("search", pulp.LpMinimize)
    entries = problem["entries"]
    x = [pulp.LpVariable(f"x{i}", cat="Binary") for i in range(len(entries))]
    of_slot = [[] for _ in range(2 * problem["layer_count"])]
    for i, entry in enumerate(entries):
        for slot in entry["slots"]:
            of_slot[slot].append(x[i])
    model += pulp.lpSum(entry["objective"] * x[i] for i, entry in enumerate(entries))
    for variables in of_slot:
        model += pulp.lpSum(variables) == 1
    for k, maximum in enumerate(problem["maxima"]):
        model += pulp.lpSum(entry["costs"][k] * x[i] for i, entry in enumerate(entries)) <= maximum
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=seconds))
    return pulp.LpStatus[model.status], pulp.value(model.objective)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--seconds", type=float, default=60, help="for one problem")
    parser.add_argument("work", nargs="+")
    arguments = parser.parse_args()
    for work in arguments.work:
        with open(work.partition(":")[2]) as file:
            problem = json.load(file)
        start = time.perf_counter()
        status, objective = solve(problem, arguments.seconds)
        milliseconds = 1e3 * (time.perf_counter() - start)
        print(f"{work}\tPuLP {pulp.__version__}\t{milliseconds}\t{status}\t{objective!r}", flush=True)


main()
