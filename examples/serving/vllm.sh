#!/usr/bin/env bash
# Servers of the policy on several machines, behind one address. vLLM 0.33.0, vllm-router 0.1.17.
#   on each machine:  GPUS=8 ADAPTERS="sft-1a2b3c4d=models/sft" bash vllm.sh server
#   on one of them:   bash vllm.sh router http://10.0.0.1:8001 http://10.0.0.2:8001
# Then `address: http://127.0.0.1:8000/v1` in compute.servers of params.yaml.
set -euo pipefail

server() {
  # One vLLM per machine, with a copy of the model on each GPU: it shares requests out among them.
  # --api-server-count 1: by default there is one per GPU, and adapters then cannot be loaded at run time.
  exec vllm serve Qwen/Qwen2.5-1.5B-Instruct-GPTQ-Int4 \
    --revision 4f5a0e31008e2966e8f787964bcc4e1105e03dc3 \
    --host "${HOST:-127.0.0.1}" --port 8001 \
    --data-parallel-size "${GPUS:-1}" --api-server-count 1 \
    --generation-config vllm \
    --enable-lora --max-lora-rank 16 ${ADAPTERS:+--lora-modules $ADAPTERS}
}

router() {
  # Machines in turns: the parity check then meets all of them.
  exec vllm-router --worker-urls "$@" --policy round_robin --host 127.0.0.1 --port 8000 \
    --request-timeout-secs 600
}

"$@"
