"""A judge tuned from a model of the Hub or a GGUF file, by a LoRA adapter that is merged afterwards."""

from pathlib import Path

from medqa import hub, model
from medqa.miniature import judge_training, training_text
from medqa.miniature.train_scratch import train
from medqa.runtime.model_sections import TunedJudge

VALIDATION_EXAMPLES = 200


def make(
    source: TunedJudge, start: Path, corpus: Path, seed: int, out: Path
) -> tuple[list[float], dict[str, str]]:
    """Train the model in `start` to grade corrupted answers, and write it to `out` in 16 bits.

    Returns the loss of each step, and the provenance of `start`.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    text = training_text.load(source.text, corpus, seed)
    dtype = "bfloat16" if model.multiplies_bfloat16(model.device()) else "float32"
    base, tok = model.load(start, dtype, dequantised=True), model.tokenizer(start)
    tok.padding_side = "right"
    rows, validation = judge_training.make_rows(source, tok, text, VALIDATION_EXAMPLES, seed)
    torch.manual_seed(seed)
    lora = LoraConfig(r=source.r, lora_alpha=source.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, lora)
    losses = train(base, rows, source, seed, "judge")
    model.merge(adapted)
    judge = adapted.get_base_model().bfloat16()
    judge_training.save(out, judge, tok, validation, source.batch_size)
    return losses, hub.provenance(start)
