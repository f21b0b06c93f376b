#!/usr/bin/env python3
"""Peer for the benchmark of encoding: Hugging Face `tokenizers` on one thread.

    peer_tokenizers.py WORK...

A WORK is "TOKENIZER.JSON:TEXT:BYTES", a text that is cut at the line ends after every so many bytes, as
bench_tokenizer.cpp cuts it. For each a line

    WORK<tab>tokenizers 0.23.3<tab>milliseconds<tab>ids

is printed: the least time of three for encode_batch on all parts, and how many ids they are.
"""

import argparse
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import tokenizers
except ImportError:
    sys.exit(0)  # one of the Pythons that other benchmarks want


def documents(text, size):
    begin = 0
    while begin < len(text):
        end = text.find(b"\n", min(begin + size, len(text) - 1)) + 1 or len(text)
        yield text[begin:end].decode(errors="replace")
        begin = end


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("work", nargs="+")
    for work in parser.parse_args().work:
        model, file, size = work.rsplit(":", 2)
        tokenizer = tokenizers.Tokenizer.from_file(model)
        with open(file, "rb") as data:
            texts = list(documents(data.read(), int(size)))
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            best = min(best, time.perf_counter() - start)
        ids = sum(len(e.ids) for e in encoded)
        print(f"{work}\ttokenizers {tokenizers.__version__}\t{1e3 * best}\t{ids}", flush=True)


main()
