"""Where a model runs on this worker, and in which precision."""

import os

import torch


def choose_device() -> torch.device:
    """Return the GPU that the scheduler gave this worker, else the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def choose_dtype(device: torch.device, wish: str = "auto") -> torch.dtype:
    """Return the precision of that name; `auto` is half precision on a GPU, float32 on a CPU.

    Half precision is float16: bfloat16 has two digits less, and the models here need no larger range.
    """
    if wish != "auto":
        dtype: torch.dtype = getattr(torch, wish)
        return dtype
    return torch.float16 if device.type == "cuda" else torch.float32


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to `device`; to a GPU from pinned memory, so that the copy overlaps with computing."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def use_threads(threads: int) -> None:
    """Let torch use this many threads, so that the workers of a node together use its cores once."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
