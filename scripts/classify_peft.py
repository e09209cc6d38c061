"""PEFT's side of scripts/classify-table: LoRA on a bare BERT encoder with a new head, then accuracy on a test file.

The recipe is that of `conclave train`: all linear maps, no dropout, AdamW without decay, warm-up, cosine to zero, clipping
to norm 1, shuffled passes over the rows. Prints one JSON object.
"""

import argparse
import gzip
import json
import math
import random
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

WARMUP_RATIO = 0.03


def rows(path):
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--train", "--test"):
        parser.add_argument(flag, required=True)
    for flag in ("--steps", "--batch", "--length", "--seed"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    train, test = rows(args.train), rows(args.test)
    labels = sorted({row["label"] for row in train})
    number = {label: at for at, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    # The checkpoint is of f16, in which transformers would compute, and whose LayerNorm loses an epsilon of 1e-12.
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=len(labels), dtype=torch.float32
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type="SEQ_CLS")
    model = get_peft_model(model, config)
    model.train()
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=args.rate, weight_decay=0.0)

    def encode(some):
        return tokenizer(
            [row["text"] for row in some],
            padding=True,
            truncation=True,
            max_length=args.length,
            return_tensors="pt",
        )

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
        wanted = torch.tensor([number[row["label"]] for row in some])
        loss = model(**encode(some), labels=wanted).loss
        assert torch.isfinite(loss), f"the loss of step {step} is not finite"
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = time.process_time()

    model.eval()
    test.sort(key=lambda row: len(row["text"]))
    hits, nats = 0, 0.0
    with torch.no_grad():
        for at in range(0, len(test), 64):
            some = test[at : at + 64]
            wanted = torch.tensor([number[row["label"]] for row in some])
            logits = model(**encode(some)).logits
            hits += (logits.argmax(-1) == wanted).sum().item()
            nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
    print(json.dumps({
        "parameters": sum(parameter.numel() for parameter in moving),
        "accuracy": hits / len(test),
        "loss": nats / len(test),
        "seconds": trained - started,
    }))


if __name__ == "__main__":
    main()
