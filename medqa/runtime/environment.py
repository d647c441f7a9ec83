"""Where work in progress is kept, and what the libraries are started with."""

import ctypes
import logging
import os
import warnings
from pathlib import Path

from medqa.runtime.errors import UserError

ENVIRONMENT = {
    # oneDNN keeps compiled code and scratch memory for 1,024 shapes of matrices; 32 hold memory down, no
    # slower.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    # Threads that wait by spinning slow each other down many times over once another process wants the same
    # cores.
    "OMP_WAIT_POLICY": "passive",
    # gptqmodel, torchao and transformers greet and warn on import; none of it helps whoever runs a stage.
    "GPTQMODEL_USE_MODELSCOPE": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "LOGBAR_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    # Batches of many shapes leave a GPU's memory in pieces; segments that grow hold it together. On CUDA a
    # user's own PYTORCH_CUDA_ALLOC_CONF comes before it.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # On H100 and newer PyTorch takes cuDNN's attention first, which plans anew, for up to half a second, for
    # each shape it has not seen: while answers are written, at every token.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    # A layer is dequantised once: Triton would compile for it, and need a C compiler.
    "GPTQ_TORCH_TRITON_DEQUANT": "0",
}

MALLOPT = {
    -1: 512 << 20,
    -3: 32 << 20,
}  # bytes, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h, its largest


NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad allocation",
    "could not create a memory",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, and the like of cuDNN and cuSOLVER
    "allocation_failed",
)


def set_up() -> None:
    """Keep the libraries' banners off the user's screen, their caches small, and memory for the next pass at
    hand.

    Call before the first of them is imported.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    # glibc gives memory back after a pass and takes it anew, page by page, in the next: a third of a small
    # model's time. Other allocators know no mallopt.
    for option, size in MALLOPT.items():
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(option, size)


def project() -> Path:
    """The folder of the main repository, also from a temporary run."""
    return Path(os.environ.get("DVC_ROOT") or ".")


def scratch_root() -> Path:
    """Where work in progress is kept: $MEDQA_CACHE, absolute or relative to the main repository, else .medqa
    in it.

    Raises UserError if a file is there.
    """
    try:
        root = project() / Path(os.environ.get("MEDQA_CACHE", "").strip() or ".medqa").expanduser()
    except RuntimeError:
        raise UserError(
            f"MEDQA_CACHE = {os.environ['MEDQA_CACHE']}: that user has no home; name a folder"
        ) from None
    if file := next((path for path in (root, *root.parents) if path.is_file()), None):
        raise UserError(
            f"{file} is a file, and work in progress is kept below it; set MEDQA_CACHE to another folder"
        )
    return root


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says, as Python, PyTorch or CUDA's libraries say it, that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY)
