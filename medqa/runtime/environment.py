"""Settings of the libraries and of the process, and the folder for work in progress."""

import ctypes
import logging
import os
import warnings
from pathlib import Path

from medqa.runtime.errors import UserError
from medqa.runtime.progress import quieten_libraries

ENVIRONMENT = {
    # oneDNN caches compiled code and scratch memory for 1,024 matrix shapes; 32 save memory and are as fast.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    # Threads that wait by spinning slow each other down many times over when processes share cores.
    "OMP_WAIT_POLICY": "passive",
    # No banners and warnings of gptqmodel, torchao and transformers on import.
    "GPTQMODEL_USE_MODELSCOPE": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "LOGBAR_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    # Batches of many shapes fragment a GPU's memory; segments that grow prevent it. On CUDA the user's own
    # PYTORCH_CUDA_ALLOC_CONF has priority.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # On H100 and newer PyTorch prefers cuDNN's attention, which plans anew for each new shape, for up to half
    # a second: during generation, at every token.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    # A layer is dequantised once: Triton would compile for it, and need a C compiler.
    "GPTQ_TORCH_TRITON_DEQUANT": "0",
}

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h, in bytes; the latter is the largest allowed.
MALLOC_OPTIONS = {-1: 512 << 20, -3: 32 << 20}

# What Python, PyTorch and CUDA's libraries call it.
OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad allocation",
    "could not create a memory",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, and the like of cuDNN and cuSOLVER
    "allocation_failed",
)


def set_up() -> None:
    """Silence the libraries, bound their caches and retain freed memory; call it before they are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quieten_libraries()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    # glibc returns memory after a forward pass and takes it again, page by page, in the next one: a third of
    # the time of a small model. Other C libraries have no mallopt.
    for option, size in MALLOC_OPTIONS.items():
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(option, size)


def release_memory() -> None:
    """Give freed memory back to the system; glibc would retain it, in pieces too small for the next use."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)


def project() -> Path:
    """The folder of the main repository, also in one of DVC's temporary runs."""
    return Path(os.environ.get("DVC_ROOT") or ".")


def scratch_root() -> Path:
    """The folder for work in progress: $MEDQA_CACHE, or else .medqa, relative to the main repository.

    Raises UserError if a file is in the way.
    """
    setting = os.environ.get("MEDQA_CACHE", "").strip() or ".medqa"
    try:
        root = project() / Path(setting).expanduser()
    except RuntimeError:
        raise UserError(f"MEDQA_CACHE = {setting}: that user has no home; name a folder") from None
    if file := next((path for path in (root, *root.parents) if path.is_file()), None):
        raise UserError(
            f"{file} is a file, and work in progress is kept below it; set MEDQA_CACHE to another folder"
        )
    return root


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)
