"""PEFT's side of scripts/completion-table: LoRA on a model that continues texts, then the loss on held-out rows.

The recipe is that of `conclave train`: all linear maps, no dropout, AdamW without decay, warm-up, cosine to zero, clipping
to norm 1, shuffled passes over the rows; the completion and the end of the text are scored. Prints one JSON object.
"""

import argparse
import gzip
import json
import math
import random
import time
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()

WARMUP_RATIO = 0.03
CONTEXT = 512
UNSCORED = -100


def examples(path, tokenizer, end):
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            prompt = tokenizer.encode(row["prompt"]).ids
            completion = tokenizer.encode(row["completion"], add_special_tokens=False).ids
            ids = (prompt + completion + [end])[:CONTEXT]
            yield ids, ([UNSCORED] * len(prompt) + completion + [end])[:CONTEXT]


def padded(some):
    longest = max(len(ids) for ids, _ in some)

    def fill(lists, filler):
        return torch.tensor([numbers + [filler] * (longest - len(numbers)) for numbers in lists])

    ids, labels = zip(*some)
    return {
        "input_ids": fill(ids, 0),
        "attention_mask": fill([[1] * len(row) for row in ids], 0),
        "labels": fill(labels, UNSCORED),
    }


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--train", "--test"):
        parser.add_argument(flag, required=True)
    for flag in ("--steps", "--batch", "--seed"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(Path(args.model) / "tokenizer.json"))
    end = model.config.eos_token_id
    train = list(examples(args.train, tokenizer, end))
    test = list(examples(args.test, tokenizer, end))
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=args.rate, weight_decay=0.0)

    started = time.process_time()
    rise = math.ceil(WARMUP_RATIO * args.steps)
    order = []
    for step in range(args.steps):
        gone = (step - rise) / (args.steps - rise)
        share = (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * gone))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * share
        while len(order) < args.batch:
            order += random.sample(range(len(train)), len(train))
        some = [train[at] for at in order[: args.batch]]
        order = order[args.batch :]
        loss = model(**padded(some)).loss
        assert torch.isfinite(loss), f"the loss of step {step} is not finite"
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = time.process_time()

    model.eval()
    test.sort(key=lambda example: len(example[0]))
    nats, scored = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(test), 32):
            batch = padded(test[at : at + 32])
            count = (batch["labels"] != UNSCORED).sum().item()
            nats += model(**batch).loss.item() * count
            scored += count
    print(json.dumps({"loss": nats / scored, "scored": scored, "seconds": trained - started}))


if __name__ == "__main__":
    main()
