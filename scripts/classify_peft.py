"""PEFT's side of scripts/classify-table: LoRA on a bare BERT encoder with a new head, then accuracy on a test file.

The recipe is that of peft_recipe.py. Prints one JSON object.
"""

import argparse
import json
import random

import torch
from peft_recipe import lines, train, trainable, with_lora
from transformers import AutoModelForSequenceClassification, AutoTokenizer


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

    rows, test = ([json.loads(line) for line in lines(path)] for path in (args.train, args.test))
    labels = sorted({row["label"] for row in rows})
    number = {label: at for at, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    # The checkpoint is of f16, in which transformers would compute, and whose LayerNorm loses an epsilon of 1e-12.
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=len(labels), dtype=torch.float32
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = with_lora(model, "SEQ_CLS")

    def encode(some):
        return tokenizer(
            [row["text"] for row in some],
            padding=True,
            truncation=True,
            max_length=args.length,
            return_tensors="pt",
        )

    def loss_of(some):
        wanted = torch.tensor([number[row["label"]] for row in some])
        return model(**encode(some), labels=wanted).loss

    seconds = train(model, rows, loss_of, steps=args.steps, batch=args.batch, rate=args.rate)

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
        "parameters": sum(parameter.numel() for parameter in trainable(model)),
        "accuracy": hits / len(test),
        "loss": nats / len(test),
        "seconds": seconds,
    }))


if __name__ == "__main__":
    main()
