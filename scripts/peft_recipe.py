"""The recipe of `conclave train` in torch, for the comparisons with PEFT: LoRA on all linear maps without dropout, AdamW
without decay, warm-up, cosine to zero, clipping to norm 1, shuffled passes over the rows.
"""

import gzip
import math
import random
import time

import torch
from peft import LoraConfig, get_peft_model

WARMUP_RATIO = 0.03


def lines(path):
    """The lines of a text file, packed or not."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        yield from file


def with_lora(model, task):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type=task)
    model = get_peft_model(model, config)
    model.train()
    return model


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def train(model, rows, loss_of, *, steps, batch, rate):
    """Trains on `rows`, `batch` of them a step, by `loss_of(some_rows)`; the seconds of processor time that it took."""
    moving = trainable(model)
    optimizer = torch.optim.AdamW(moving, lr=rate, weight_decay=0.0)
    started = time.process_time()
    rise = math.ceil(WARMUP_RATIO * steps)
    order = []
    for step in range(steps):
        gone = (step - rise) / (steps - rise)
        share = (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * gone))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        while len(order) < batch:
            order += random.sample(range(len(rows)), len(rows))
        loss = loss_of([rows[at] for at in order[:batch]])
        order = order[batch:]
        assert torch.isfinite(loss), f"the loss of step {step} is not finite"
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - started
