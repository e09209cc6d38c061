#!/usr/bin/env python3
"""Writes a Llama folder with random weights, for benchmarks: no tokenizer, f32, nothing to install.

  scripts/make_random_model.py smollm OUT_DIR      (the shape of SmolLM-135M)
  scripts/make_random_model.py small OUT_DIR       (17 M parameters in the layers and two tables of 32,000)
  scripts/make_random_model.py bytes OUT_DIR       (6 M parameters; fits the embedded base's tokenizer of bytes)
  scripts/make_random_model.py wide OUT_DIR        (as bytes, but wide: at rank 1024 a factor has 63 MB)
  scripts/make_random_model.py vast OUT_DIR        (as wide, but deep: at rank 1024 a factor has 535 MB)

Then: conclave train --model OUT_DIR --synthetic-tokens --threads 1 --json
"""
import json
import os
import random
import struct
import sys
from array import array

SHAPES = {
    "small": dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
                  intermediate_size=768, vocab_size=32000, max_position_embeddings=1024,
                  tie_word_embeddings=False),
    "smollm": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                   intermediate_size=1536, vocab_size=49152, max_position_embeddings=2048,
                   tie_word_embeddings=True),
    "bytes": dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
                  intermediate_size=768, vocab_size=258, max_position_embeddings=256,
                  tie_word_embeddings=True, bos_token_id=256, eos_token_id=257),
    "wide": dict(hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=16,
                 intermediate_size=1280, vocab_size=258, max_position_embeddings=256,
                 tie_word_embeddings=True, bos_token_id=256, eos_token_id=257),
}
SHAPES["vast"] = dict(SHAPES["wide"], num_hidden_layers=17)


def tensors(c):
    """Names and shapes, sorted by name."""
    h, f = c["hidden_size"], c["intermediate_size"]
    kv = h // c["num_attention_heads"] * c["num_key_value_heads"]
    out = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, shape in [("q", (h, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, h))]:
            out[f"{p}self_attn.{name}_proj.weight"] = shape
        for name, shape in [("gate", (f, h)), ("up", (f, h)), ("down", (h, f))]:
            out[f"{p}mlp.{name}_proj.weight"] = shape
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = (h,)
    return sorted(out.items())


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        raise SystemExit(__doc__)
    config = dict(SHAPES[sys.argv[1]], architectures=["LlamaForCausalLM"], model_type="llama",
                  hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0, torch_dtype="float32")
    folder = sys.argv[2]
    os.makedirs(folder)
    header, at = {}, 0
    for name, shape in tensors(config):
        size = 4
        for n in shape:
            size *= n
        header[name] = dict(dtype="F32", shape=list(shape), data_offsets=[at, at + size])
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = random.Random(0)
    pool = array("f", (rng.gauss(0, 0.02) for _ in range(1 << 20)))
    with open(os.path.join(folder, "model.safetensors"), "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(config):
            begin, end = header[name]["data_offsets"]
            count = (end - begin) // 4
            if len(shape) == 1:
                out.write(array("f", [1.0]).tobytes() * count)
                continue
            while count:
                start = rng.randrange(len(pool) // 2)
                piece = pool[start:start + min(count, len(pool) // 2)]
                out.write(piece.tobytes())
                count -= len(piece)
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(config, out, indent=2)


if __name__ == "__main__":
    main()
