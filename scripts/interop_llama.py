"""What llama.cpp makes of a GGUF file; run by scripts/interop.py.

  interop_llama.py MODEL.gguf [ADAPTER.gguf] < {"texts": [...], "ids": [...]}

Prints {"tokens": the ids of each text, "read": how many of the ids, "likeliest": [[id, log-probability], ...] of what
follows these}.
"""
import json
import os
import socket
import sys
import urllib.request

import xllamacpp


def main():
    asked = json.load(sys.stdin)
    parameters = xllamacpp.CommonParams()
    parameters.model.path, *_ = sys.argv[1:]
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in sys.argv[2:]]
    parameters.n_ctx, parameters.n_parallel, parameters.warmup, parameters.fit_params = 64, 1, False, False
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        parameters.port = free.getsockname()[1]
    server = xllamacpp.Server(parameters)

    def post(path, **body):
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))

    tokens = [post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] for text in asked["texts"]]
    ids, said = asked["ids"], {}
    while "completion_probabilities" not in said:  # not told where the next token is half a letter
        said = post("/completion", prompt=ids, n_predict=1, temperature=0, n_probs=10, cache_prompt=False, ignore_eos=True)
        read, ids = len(ids), ids[:-1]
    likeliest = [[token["id"], token["logprob"]] for token in said["completion_probabilities"][0]["top_logprobs"]]
    json.dump({"tokens": tokens, "read": read, "likeliest": likeliest}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the server's threads would go on


main()
