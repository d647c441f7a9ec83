"""Four-bit weights by GPTQ (Frantar et al. 2022), as a checkpoint like those of the Hub."""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOTICE = (
    "{name}: quantising {layers} layers to 4 bits; the first time, gptqmodel compiles an extension for that, "
    "which takes half a minute (without a C++ compiler it does the same in Python)"
)


def quantise(
    model: "PreTrainedModel",
    tok: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    out: Path,
    group_size: int = 128,
    sym: bool = True,
    half: bool = False,
) -> None:
    """Write the model to `out`, its linear layers in four bits, one scale per `group_size` weights.

    The rounding is calibrated on `texts`. `half` stores the other weights, above all the embedding, in
    float16.
    """
    import torch
    from transformers import AutoModelForCausalLM, GPTQConfig

    print(NOTICE.format(name=out.name, layers=model.config.num_hidden_layers), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = GPTQConfig(
            bits=4, group_size=group_size, dataset=list(texts), tokenizer=tok, sym=sym, desc_act=False
        )
        quantised = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        )
    if half:
        for parameter in quantised.parameters():
            parameter.data = parameter.data.half()
        quantised.config.dtype = torch.float16
    quantised.save_pretrained(out)
    tok.save_pretrained(out)
    # The configuration holds every calibration text; a checkpoint should not carry them.
    path = out / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["quantization_config"] |= {"dataset": None, "tokenizer": None}
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
