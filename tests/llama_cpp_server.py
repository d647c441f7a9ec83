"""llama.cpp's own server of a GGUF file: prints its address, and ends when its standard input does."""

import json
import sys

import xllamacpp

path, name, parallel, sampling = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = path, {name}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_parallel, params.n_ctx = int(parallel), 2048 * int(parallel)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
for field, value in json.loads(sampling).items():
    setattr(params.sampling, field, value)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
