"""Compiles a model with torch, if there is a compiler: `compile=true`."""

import logging

import torch
from torch import nn

from descent.errors import first_line


def compile_in_place(model: nn.Module, device: torch.device) -> None:
    """Compile a model in place, which keeps its weights' names; without a compiler, a line says so."""
    # a warning on a machine with the CUDA toolkit but no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))  # needs all that the model will need
    except Exception as error:  # torch raises its own type for each backend
        print(f"compile=true: no working compiler here, so the model runs uncompiled ({first_line(error)})")
        torch.compiler.reset()
    else:
        model.compile()
