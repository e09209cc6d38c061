"""PEFT's side of scripts/completion-table: LoRA on a model that continues texts, then the loss on held-out rows.

The recipe is that of peft_recipe.py; the completion and the end of the text are scored. Prints one JSON object.
"""

import argparse
import json
import random
import warnings
from pathlib import Path

import torch
from peft_recipe import lines, train, with_lora
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()

CONTEXT = 512
UNSCORED = -100


def examples(path, tokenizer, end):
    for line in lines(path):
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
    rows = list(examples(args.train, tokenizer, end))
    test = list(examples(args.test, tokenizer, end))
    model = with_lora(model, "CAUSAL_LM")

    def loss_of(some):
        return model(**padded(some)).loss

    seconds = train(model, rows, loss_of, steps=args.steps, batch=args.batch, rate=args.rate)

    model.eval()
    test.sort(key=lambda example: len(example[0]))
    nats, scored = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(test), 32):
            batch = padded(test[at : at + 32])
            count = (batch["labels"] != UNSCORED).sum().item()
            nats += model(**batch).loss.item() * count
            scored += count
    print(json.dumps({"loss": nats / scored, "scored": scored, "seconds": seconds}))


if __name__ == "__main__":
    main()
