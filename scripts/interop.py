"""Compares logits and gradients with transformers and PEFT; run by scripts/interop.

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
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer,
                          BertConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
from transformers.tokenization_utils_base import generate_merges
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.simplefilter("ignore")

TOLERANCE = 1e-4
CLOSE = 1e-5  # losses and gradients
TABLED = 1e-3  # llama.cpp looks GELU up in a table of 16 bits
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


def stretched(config):
    """How rotary positions are stretched."""
    return (getattr(config, "rope_parameters", None) or {"rope_type": "default"})["rope_type"]


def known_in_gguf(config):
    """Whether transformers reads all of such a GGUF file: it misses the width of heads, biases, stretched positions, and
    how many positions a GPT-2 has."""
    return config.model_type not in ["qwen3", "gpt2"] and not getattr(config, "attention_bias", False) \
        and stretched(config) == "default"


def theirs(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    return logits if logits.dim() == 2 else logits[0]


def rows_of(ids, labels):
    """Two rows to learn from, one of them short; of a classifier with a label behind each."""
    return [ids + [1], ids[5:14] + [0]] if labels else [ids, ids[5:14]]


def peft_name(name):
    """What a file calls a parameter of PEFT's model."""
    if "prompt_encoder" in name:
        return "prompt_embeddings"
    return name.replace(".modules_to_save", "").replace(".default", "")


class Run:
    def __init__(self, binaries):
        self.binaries = Path(binaries)
        self.failed = 0

    def ours(self, model, ids, adapter=None):
        command = [self.binaries / "examples" / "logits", model, json.dumps(ids)] + ([adapter] if adapter else [])
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return torch.tensor(json.loads(out))

    def gradients(self, what, folder, peft, model, rows, behind=0):
        """The mean loss of packed rows, and its gradient by all that moves, beside PEFT's own in f64, row by row. Of
        a classifier's row the last number is the label; `behind` rows of logits belong to a soft prompt."""
        out = subprocess.run([self.binaries / "examples" / "gradients", folder, peft, json.dumps(rows)], check=True,
                             capture_output=True, text=True).stdout
        ours = json.loads(out)
        model = model.double()
        total, scored = 0.0, 0
        for row in rows:
            *ids, label = row
            if model.config.model_type == "bert":
                logits, wanted = model(input_ids=torch.tensor([ids])).logits, torch.tensor([label])
            else:
                logits = model(input_ids=torch.tensor([row])).logits[0][behind:-1]
                wanted = torch.tensor(row[1:])
            total = total + torch.nn.functional.cross_entropy(logits.double(), wanted, reduction="sum")
            scored += len(wanted)
        (total / scored).backward()
        moving = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        theirs = {peft_name(name): gradient for name, gradient in moving.items()}
        if theirs.keys() != ours["gradients"].keys():
            self.failed += 1
            print(f"FAIL {what}: other tensors move: {theirs.keys() ^ ours['gradients'].keys()}", flush=True)
            return
        apart, loss = abs(ours["loss"] - total.item() / scored), total.item() / scored
        worst = 0.0
        for name, gradient in theirs.items():
            found = torch.tensor(ours["gradients"][name], dtype=torch.float64)
            largest = gradient.abs().max().item()
            if largest == 0:
                self.failed += 1
                print(f"FAIL {what}: {name} has no gradient", flush=True)
            worst = max(worst, ((found - gradient.flatten()).abs().max() / max(largest, 1.0)).item())
        good = apart <= CLOSE * max(loss, 1.0) and worst <= CLOSE
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}, loss and gradient: {apart:.1e} and {worst:.1e} apart", flush=True)

    def conclave(self, *arguments):
        subprocess.run([self.binaries / "conclave", *map(str, arguments)], check=True, capture_output=True, text=True)

    def compare(self, what, ours, theirs, unlike=None, within=TOLERANCE):
        apart = (ours - theirs).abs().max().item()
        good = apart <= within
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
            self.gradients(f"{name}: PEFT's adapter ({what})", folder, peft, model, rows_of(ids, labels))

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
        self.gradients(f"{name}: PEFT's rsLoRA with patterns", folder, patterned, model, rows_of(ids, labels))

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
            self.gguf_export(name, config, folder, adapter, scratch, ids, ours)

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
        self.gradients(f"{name}: PEFT's soft prompt", folder, peft, model, rows_of(ids, labels), behind)
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
        if stretched(config) not in ["default", "yarn"] or getattr(config, "use_sliding_window", False):
            return  # the format has no place for them
        model, place = load(folder), scratch / f"{name}-gguf"
        place.mkdir()
        write_gguf(model, place / "model.gguf", quantised=False)
        self.compare(f"{name}: GGUF, read here", self.ours(place, ids), theirs(model, ids))
        if not known_in_gguf(config):
            return
        write_gguf(model, place / "model.gguf", quantised=True)
        model = AutoModelForCausalLM.from_pretrained(place, gguf_file="model.gguf", dtype=torch.float32,
                                                     attn_implementation="eager").eval()
        self.compare(f"{name}: GGUF in Q8_0, read here and by transformers", self.ours(place, ids), theirs(model, ids))


    def gguf_export(self, name, config, folder, adapter, scratch, ids, ours):
        """Our GGUF files: each tensor as gguf-py would write PEFT's merged model, the logits here and in transformers."""
        if getattr(config, "use_sliding_window", False):
            return  # the format has no place for them
        places = {kind: scratch / f"{name}-to-{kind}" for kind in ["f32", "q8_0", "lora"]}
        export = ["export", "--model", folder, "--adapter", adapter]
        for kind in ["f32", "q8_0"]:
            self.conclave(*export, "--format", "gguf", "--outtype", kind, "--out", places[kind])
        self.conclave(*export, "--format", "gguf-lora", "--outtype", "f32", "--out", places["lora"])
        self.compare(f"{name}: our GGUF, read here", self.ours(places["f32"], ids), ours)

        model = PeftModel.from_pretrained(load(folder), adapter).merge_and_unload().eval()
        for kind in ["f32", "q8_0"]:
            reference = scratch / f"{name}-reference.gguf"
            write_gguf(model, reference, quantised=kind == "q8_0")
            written, reference = tensors_of(places[kind] / "model.gguf"), tensors_of(reference)
            more = {"rope_freqs.weight"} if stretched(config) == "llama3" else set()
            same = written.keys() - more == reference.keys()
            same &= all(written[key][0] == reference[key][0] for key in reference)
            apart = max(abs(written[key][1] - reference[key][1]).max() for key in reference)
            self.say(same and apart < (1e-2 if kind == "q8_0" else 1e-5),
                     f"{name}: our GGUF in {kind} beside gguf-py's: largest difference {apart:.1e}")

        base = scratch / f"{name}-base.gguf"
        write_gguf(load(folder), base, quantised=False)
        base, factors, merged = (tensors_of(path) for path in [base, places["lora"] / "adapter.gguf",
                                                               places["f32"] / "model.gguf"])
        alpha = gguf.GGUFReader(places["lora"] / "adapter.gguf").fields["adapter.lora.alpha"].contents()
        apart = 0.0
        for key in [key.removesuffix(".lora_a") for key in factors if key.endswith(".lora_a")]:
            a, b = (factors[f"{key}.lora_{factor}"][1] for factor in "ab")
            apart = max(apart, abs(base[key][1] + alpha / a.shape[0] * (b @ a) - merged[key][1]).max())
        self.say(apart < 1e-5, f"{name}: our factors in GGUF on the base: largest difference {apart:.1e}")

        if known_in_gguf(config):
            for kind, want in [("f32", ours), ("q8_0", self.ours(places["q8_0"], ids))]:
                model = AutoModelForCausalLM.from_pretrained(places[kind], gguf_file="model.gguf", dtype=torch.float32,
                                                             attn_implementation="eager").eval()
                self.compare(f"{name}: our GGUF in {kind}, read by transformers", want, theirs(model, ids))

    def say(self, good, what):
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}", flush=True)

    def ids(self, folder, text):
        command = [self.binaries / "examples" / "logits", folder, json.dumps(text)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def tokenizer(self, name, kind, tokenizer, scratch):
        """A tokenizer that goes through our GGUF file, through one of gguf-py's, and is read by transformers; and what
        llama.cpp makes of the file, and of the base with our factors.
        """
        folder, adapter, place = (scratch / f"tokens-{name}{end}" for end in ["", "-adapter", "-gguf"])
        count = tokenizer.get_vocab_size()
        ends = {key: tokenizer.token_to_id(token) for key, token in [("bos_token_id", "<s>"), ("eos_token_id", "</s>")]}
        config = AutoConfig.for_model(**{**FAMILIES[kind].to_dict(), **ends, "vocab_size": count})
        random_model(config, folder, torch.float32, "1GB")
        tokenizer.save(str(folder / "tokenizer.json"))
        train = ["train", "--model", folder, "--synthetic-tokens", "--sequence-len", 32, "--micro-batch-size", 2]
        one, other = first_targets(folder)
        self.conclave(*train, "--steps", 4, "--learning-rate", 0.05, "--use-rslora", "--rank-pattern", f"{one}=5",
                      "--alpha-pattern", f"{other}=9", "--out", adapter)
        export = ["export", "--model", folder, "--outtype", "f32"]
        self.conclave(*export, "--adapter", adapter, "--format", "gguf", "--out", place)
        if LLAMA_CPP:
            self.llama_cpp(name, kind, tokenizer, train, export, adapter, place, scratch)
        wrong = [text for text in TEXTS if self.ids(place, text) != (tokenizer.encode(text).ids or [ends["bos_token_id"]])]
        self.say(not wrong, f"tokenizer {name}: from our GGUF, read here" + f" {wrong}" * bool(wrong))
        if name != "smollm":  # transformers has no such way to part texts
            fast = AutoTokenizer.from_pretrained(place, gguf_file="model.gguf")
            texts = [text for text in TEXTS if text]
            if name == "pieces":  # it marks a space at the beginning, and what follows a special token, otherwise
                texts = [text for text in texts if not text.startswith(" ") and "</s>" not in text]
            wrong = [text for text in texts if fast(text).input_ids != tokenizer.encode(text).ids]
            self.say(not wrong, f"tokenizer {name}: from our GGUF, read by transformers" + f" {wrong}" * bool(wrong))
        if name == "pieces":
            # As llama.cpp writes SentencePiece's: scores and no merges.
            fields = gguf.GGUFReader(place / "model.gguf").fields
            bare = scratch / "tokens-bare"
            bare.mkdir()
            write_gguf(load(folder), bare / "model.gguf", quantised=False,
                       vocabulary=[fields[f"tokenizer.ggml.{key}"].contents() for key in ["tokens", "scores", "token_type"]])
            wrong = [text for text in TEXTS if self.ids(bare, text) != self.ids(folder, text)]
            self.say(not wrong, f"tokenizer {name}: from scores alone, read here" + f" {wrong}" * bool(wrong))


    def llama_cpp(self, name, kind, tokenizer, train, export, adapter, place, scratch):
        base, factors = (scratch / f"tokens-{name}-{what}" for what in ["base", "factors"])
        self.conclave(*export, "--format", "gguf", "--out", base)
        self.conclave(*export, "--adapter", adapter, "--format", "gguf-lora", "--out", factors)
        ids = tokenizer.encode(TEXTS[0]).ids[:TOKENS]
        want = torch.log_softmax(self.ours(train[2], ids, adapter), 1)
        without = torch.log_softmax(self.ours(train[2], ids), 1)
        for what, files in [("our GGUF", [place / "model.gguf"]),
                            ("our factors on the base", [base / "model.gguf", factors / "adapter.gguf"])]:
            asked = json.dumps(dict(texts=TEXTS, ids=ids))
            out = subprocess.run([sys.executable, Path(__file__).with_name("interop_llama.py"), *files], input=asked,
                                 check=True, capture_output=True, text=True).stdout
            said = json.loads(out)
            wrong = [text for text, got in zip(TEXTS, said["tokens"]) if got != tokenizer.encode(text).ids]
            self.say(not wrong, f"tokenizer {name}: {what}, tokens of llama.cpp" + f" {wrong}" * bool(wrong))
            last, places = said["read"] - 1, [token for token, _ in said["likeliest"]]
            self.compare(f"tokenizer {name}: {what}, log-probabilities of llama.cpp", want[last][places],
                         torch.tensor([likelihood for _, likelihood in said["likeliest"]]), without[last][places],
                         within=TABLED if kind == "gpt2" else TOLERANCE)


try:
    import xllamacpp  # noqa: F401
    LLAMA_CPP = True
except ImportError:
    LLAMA_CPP = False
    print("SKIPPED: llama.cpp (xllamacpp) is not installed: nothing is proved of it", flush=True)


TEXTS = ["The quick brown fox, 1234567 times; it's the dog's.", "  two  spaces\tand a tab\n\nand lines  \n",
         "Grüße aus 東京 🦊 naïve Ünïcödé ½ ٣", "x</s>y<tool>z", "I'LL say: don't!!! (really?)", ""]


def trained(tokenizer, **more):
    """A tokenizer with merges learnt from this file."""
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, **more)
    tokenizer.train_from_iterator([Path(__file__).read_text()] + TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def byte_level(pre, normalizer=None, bos=False, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre, decoders.ByteLevel()
    tokenizer = trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B",
                                                                 special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def byte_split(digits):
    regex = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), behavior="isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def pieces():
    """Llama 2's kind: SentencePiece's BPE as transformers spells it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # words, as SentencePiece learns them
    tokenizer = trained(tokenizer)
    parsed = json.loads(tokenizer.to_str())
    known = len(parsed["model"]["vocab"]) + 1
    for byte in range(256):
        parsed["model"]["vocab"][f"<0x{byte:02X}>"] = known + byte
    # Every way to make a piece is a merge, the best piece's first.
    vocab, ranks = parsed["model"]["vocab"], {}
    for left, right in parsed["model"]["merges"]:
        ranks.setdefault(left + right, -len(ranks))
    scores = {token: ranks.get(token, 0) for token in sorted(vocab, key=vocab.get)}
    others = {token for token in vocab if token.startswith("<") and token.endswith(">")}
    parsed["model"]["merges"] = generate_merges(vocab, scores, others)
    parsed["pre_tokenizer"] = None
    parsed["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B",
                                                             special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def tokenizers():
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    yield "pieces", "llama", pieces()
    yield "gpt-2", "qwen3", byte_level(gpt2)
    yield "smollm", "llama-linear", byte_level(digits)
    yield "llama-bpe", "llama3", byte_level(byte_split(r"\p{N}{1,3}"), bos=True, ignore_merges=True)
    yield "gpt-2 of YaRN", "llama-yarn", byte_level(gpt2)
    yield "gpt-2 of GPT-2", "gpt2", byte_level(gpt2)
    yield "qwen2", "qwen2", byte_level(byte_split(r"\p{N}"), normalizers.NFC())


def tensors_of(path):
    """By name: the type, and the values."""
    return {tensor.name: (tensor.tensor_type, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32"))
            for tensor in gguf.GGUFReader(path).tensors}


GGUF_NAMES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3,
              "gpt2": gguf.MODEL_ARCH.GPT2}


def write_gguf(model, path, quantised, vocabulary=None):
    """As llama.cpp converts a model; quantised: matrices in Q8_0 where 32 divides the rows, else in f16. A vocabulary
    is one of SentencePiece: tokens, scores and types."""
    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(4 * config.n_embd if kind == "gpt2" else config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_context_length(config.max_position_embeddings)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if stretched(config) == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if vocabulary:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(vocabulary[0])
        writer.add_token_scores(vocabulary[1])
        writer.add_token_types(vocabulary[2])
        writer.add_bos_token_id(config.bos_token_id)
        writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(GGUF_NAMES[kind], config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        module = key.split(".")[-2]
        if kind == "gpt2" and module.startswith("c_") and values.ndim == 2:
            values = values.T.copy()
        heads = {"q_proj": config.num_attention_heads,
                 "k_proj": getattr(config, "num_key_value_heads", None)}.get(module)
        if kind == "llama" and heads:
            values = (values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2)
                      .reshape(values.shape))
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if values.ndim == 1 or module == "wpe" or not quantised:
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
        for name, kind, tokenizer in tokenizers():
            run.tokenizer(name, kind, tokenizer, scratch)
        for folder in folders:
            run.family(Path(folder).name, Path(folder), scratch)
    if run.failed:
        sys.exit(f"{run.failed} comparisons failed")
    print("all agree")


main()
