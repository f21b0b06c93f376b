#!/usr/bin/env python3
"""Runs model folders in transformers and compares them with Tangram.

    huggingface.py TOKENS.safetensors FOLDER LOGITS.safetensors [FOLDER LOGITS.safetensors]...

TOKENS has input_ids (S, T) i32, LOGITS what `tangram logits` makes of them. For each folder: the largest difference of
the logits over the largest logit (1e-5 allowed), whether greedy generation gives the same ids with a cache as without
one and as each sequence alone where one of them is padded, and whether configuration and model come back the same from
a folder that transformers saves. Ends with 1 if one of these fails.
"""
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

TOLERANCE = 1e-5


def load(folder):
    kind = {"dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **kind).eval()


def generate(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    return model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, min_new_tokens=12,
                          pad_token_id=0, eos_token_id=None, **options)  # fmt: skip


def generates_the_same(model, ids):
    prompts = ids[:2, :7]
    cached = generate(model, prompts)
    if not torch.equal(cached, generate(model, prompts, use_cache=False)):
        return "another text without the cache"
    # Row i has the first 7 - i tokens of prompt i, behind padding.
    mask, padded = torch.ones(len(prompts), 10, dtype=torch.long), torch.zeros(len(prompts), 10, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        mask[row, : 3 + row] = 0
        padded[row, 3 + row :] = prompt[: 7 - row]
    for row, beside in enumerate(generate(model, padded, mask)):
        if not torch.equal(beside[-12:], generate(model, prompts[row : row + 1, : 7 - row])[0, -12:]):
            return "another text beside padding"
    return ""


def comes_back(model, ids):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for code in pathlib.Path(model.config._name_or_path).glob("*.py"):  # old versions leave it to the user
            shutil.copy(code, folder)
        again = load(folder)
        same_config = AutoConfig.from_pretrained(folder, trust_remote_code=True).to_dict()
    with torch.no_grad():
        if not torch.equal(model(ids).logits, again(ids).logits):
            return "another model from the folder it saved"
    blocks = "block_configs"
    return "" if same_config.get(blocks) == model.config.to_dict().get(blocks) else "other block_configs saved"


def check(folder, ids, logits):
    model = load(folder)
    with torch.no_grad():
        found = torch.cat(list(model(ids).logits))
    difference = float((found - logits).abs().max() / logits.abs().max())
    faults = [f for f in (generates_the_same(model, ids), comes_back(model, ids[:1, :9])) if f]
    if not difference <= TOLERANCE:
        faults.append("other logits")
    print(f"{pathlib.Path(folder).name}: {len(logits)} x {logits.shape[1]} logits, largest difference {difference:.2e} "
          f"of the largest; {'; '.join(faults) if faults else 'generates and saves the same'}", flush=True)  # fmt: skip
    return not faults


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    ids = load_file(sys.argv[1])["input_ids"].long()
    pairs = list(zip(sys.argv[2::2], sys.argv[3::2]))
    passed = [check(folder, ids, load_file(logits)["logits"]) for folder, logits in pairs]
    print(f"transformers {transformers.__version__}: {sum(passed)} of {len(passed)} agree")
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
