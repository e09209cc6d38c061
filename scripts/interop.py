"""Compares logits with transformers and PEFT; run by scripts/interop.

  interop.py BIN [MODEL_FOLDER ...]
"""
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import gguf
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, GPT2Config,
                          LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.simplefilter("ignore")

TOLERANCE = 1e-4
TOKENS = 24
ROWS = 5

SMALL = dict(hidden_size=64, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=97, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
             pad_token_id=0)


def rope(kind, **more):
    return dict(rope_type=kind, rope_theta=10000.0, **more)


FAMILIES = {
    "llama": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-linear": LlamaConfig(**SMALL, rope_parameters=rope("linear", factor=4.0)),
    "llama3": LlamaConfig(**SMALL, rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                        original_max_position_embeddings=32)),
    "llama-yarn": LlamaConfig(**SMALL, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral": MistralConfig(**SMALL, sliding_window=7),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
    "gpt2": GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=64, vocab_size=97, initializer_range=0.2,
                       bos_token_id=1, eos_token_id=2),
    "bert": BertConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=88, vocab_size=97,
                       max_position_embeddings=64, initializer_range=0.2, num_labels=5),
}
# Stored in other ways: number format, shards.
STORED = {"llama": (torch.float32, "60KB"), "qwen2": (torch.bfloat16, "1GB"), "mistral": (torch.float16, "40KB")}


def kind_of(config):
    return AutoModelForSequenceClassification if config.model_type == "bert" else AutoModelForCausalLM


def random_model(config, folder, dtype, shard):
    """A model whose biases and norms are not what they start as."""
    model = kind_of(config).from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)


def load(folder):
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(2)  # a head that the folder does not have
    model = kind_of(config).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def theirs(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    return logits if logits.dim() == 2 else logits[0]


class Run:
    def __init__(self, binaries):
        self.binaries = Path(binaries)
        self.failed = 0

    def ours(self, model, ids, adapter=None):
        command = [self.binaries / "examples" / "logits", model, json.dumps(ids)] + ([adapter] if adapter else [])
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return torch.tensor(json.loads(out))

    def conclave(self, *arguments):
        subprocess.run([self.binaries / "conclave", *map(str, arguments)], check=True, capture_output=True, text=True)

    def compare(self, what, ours, theirs, unlike=None):
        apart = (ours - theirs).abs().max().item()
        good = apart <= TOLERANCE
        if unlike is not None and (ours - unlike).abs().max().item() < 100 * TOLERANCE:
            good, what = False, what + " (the adapter changes nothing)"
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: largest difference {apart:.1e}", flush=True)

    def family(self, name, folder, scratch):
        config = AutoConfig.from_pretrained(folder)
        torch.manual_seed(1)
        ids = torch.randint(3, config.vocab_size, (TOKENS,)).tolist()
        labels = config.model_type == "bert"
        base = None
        if not labels or "BertForSequenceClassification" in config.architectures:
            base = self.ours(folder, ids)
            self.compare(f"{name}: base", base, theirs(load(folder), ids))

        for targets in ["all-linear", first_targets(folder)]:
            peft = scratch / f"{name}-peft-{'all' if targets == 'all-linear' else 'some'}"
            model = get_peft_model(load(folder), LoraConfig(r=4, lora_alpha=6, target_modules=targets,
                                                            task_type="SEQ_CLS" if labels else "CAUSAL_LM"))
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if "lora_B" in key or "modules_to_save" in key:
                        parameter.copy_(torch.randn_like(parameter) * 0.1)
            model.eval().save_pretrained(peft)
            what = "all linear maps" if targets == "all-linear" else ",".join(targets)
            self.compare(f"{name}: PEFT's adapter ({what}), read here", self.ours(folder, ids, peft),
                         theirs(model, ids), base)

        patterned = scratch / f"{name}-patterned"
        key = r"layers?\.1\..*|h\.1\..*"
        model = get_peft_model(load(folder), LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True,
                                                        # Sorted, as PEFT saves them.
                                                        rank_pattern=dict(sorted({key: 7, first_targets(folder)[0]: 2}
                                                                                 .items())),
                                                        alpha_pattern={first_targets(folder)[0]: 3},
                                                        task_type="SEQ_CLS" if labels else "CAUSAL_LM"))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name or "modules_to_save" in parameter_name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
        model.eval().save_pretrained(patterned)
        self.compare(f"{name}: PEFT's rsLoRA with patterns, read here", self.ours(folder, ids, patterned),
                     theirs(model, ids), base)

        adapter = scratch / f"{name}-ours"
        if labels:
            # Our copy of PEFT's adapter.
            self.conclave("export", "--model", folder, "--adapter", peft, "--format", "peft", "--out", adapter)
        else:
            self.conclave("train", "--model", folder, "--synthetic-tokens", "--steps", 4, "--learning-rate",
                          0.05, "--sequence-len", 32, "--micro-batch-size", 2, "--use-rslora", "--rank-pattern",
                          f"{first_targets(folder)[0]}=5", "--alpha-pattern", f"{first_targets(folder)[1]}=9", "--out",
                          adapter)
        ours = self.ours(folder, ids, adapter)
        self.compare(f"{name}: our adapter, read by PEFT", ours,
                     theirs(PeftModel.from_pretrained(load(folder), adapter).eval(), ids), base)

        self.prompt(name, folder, scratch, ids, labels, base)

        if config.model_type in GGUF_NAMES:
            self.gguf(name, config, folder, scratch, ids)

        merged = scratch / f"{name}-merged"
        self.conclave("export", "--model", folder, "--adapter", adapter, "--format", "merged", "--out", merged)
        self.compare(f"{name}: merged, read by transformers", ours, theirs(load(merged), ids), base)

    def prompt(self, name, folder, scratch, ids, labels, base):
        """Soft prompts: PEFT's read here, ours read by PEFT. A row of logits belongs to each token, none to the prompt."""
        peft, ours = scratch / f"{name}-prompt-peft", scratch / f"{name}-prompt-ours"
        model = get_peft_model(load(folder), PromptTuningConfig(num_virtual_tokens=ROWS,
                                                                task_type="SEQ_CLS" if labels else "CAUSAL_LM"))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "prompt_encoder" in key or "modules_to_save" in key:
                    parameter.copy_(torch.randn_like(parameter) * 0.5)
        model.eval().save_pretrained(peft)
        behind = 0 if labels else ROWS
        self.compare(f"{name}: PEFT's soft prompt, read here", self.ours(folder, ids, peft),
                     theirs(model, ids)[behind:], base)
        if labels:
            self.conclave("export", "--model", folder, "--adapter", peft, "--format", "peft", "--out", ours)
        else:
            self.conclave("train", "--model", folder, "--synthetic-tokens", "--method", "prompt", "--num-virtual-tokens",
                          ROWS, "--steps", 4, "--learning-rate", 0.1, "--sequence-len", 32, "--micro-batch-size", 2,
                          "--out", ours)
        model = PeftModel.from_pretrained(load(folder), ours).eval()
        self.compare(f"{name}: our soft prompt, read by PEFT", self.ours(folder, ids, ours),
                     theirs(model, ids)[behind:], base)

    def gguf(self, name, config, folder, scratch, ids):
        """GGUF files: in f32 against the model itself, quantised against transformers' reading of the same file."""
        if config.rope_parameters["rope_type"] != "default" or getattr(config, "use_sliding_window", False):
            return  # the format has no place for them
        model, place = load(folder), scratch / f"{name}-gguf"
        place.mkdir()
        write_gguf(model, place / "model.gguf", quantised=False)
        self.compare(f"{name}: GGUF, read here", self.ours(place, ids), theirs(model, ids))
        if config.model_type == "qwen3" or getattr(config, "attention_bias", False):
            return  # transformers misses the width of the heads, or the biases
        write_gguf(model, place / "model.gguf", quantised=True)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file="model.gguf", dtype=torch.float32,
                                                     attn_implementation="eager").eval()
        self.compare(f"{name}: GGUF in Q8_0, read here and by transformers", self.ours(place, ids), theirs(model, ids))


GGUF_NAMES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def write_gguf(model, path, quantised):
    """As llama.cpp converts a model; quantised: matrices in Q8_0 where 32 divides the rows, else in f16."""
    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    names = gguf.get_tensor_name_map(GGUF_NAMES[kind], config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
        if kind == "llama" and heads:
            values = (values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2)
                      .reshape(values.shape))
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if values.ndim == 1 or not quantised:
            writer.add_tensor(stored, values)
        elif values.shape[-1] % 32 == 0:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(stored, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(stored, values.astype("float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def first_targets(folder):
    kind = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    return {"gpt2": ["c_attn", "mlp.c_proj"], "bert": ["query", "output.dense"]}.get(kind, ["q_proj", "down_proj"])


def main():
    binaries, *folders = sys.argv[1:]
    run = Run(binaries)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, config in FAMILIES.items():
            torch.manual_seed(len(name))
            folder = scratch / name
            random_model(config, folder, *STORED.get(name, (torch.float32, "1GB")))
            run.family(name, folder, scratch)
        for folder in folders:
            run.family(Path(folder).name, Path(folder), scratch)
    if run.failed:
        sys.exit(f"{run.failed} comparisons failed")
    print("all logits agree")


main()
