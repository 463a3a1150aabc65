"""The one place that opens a PyTorch file, and never runs what stands in it.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses every other name a pickle may ask for.
Classes that a format really uses are let in by name, each standing in for nothing but its attributes.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from probes.errors import ExchangeError


def load_tensors(path: Path, *, allowed: list[Callable[..., object] | tuple[Callable[..., object], str]]) -> object:
    """What is in a `.pt` file; `allowed` are classes, or (class of ours, the name it stands in for).

    Raises ExchangeError for a file that is damaged, or that asks for anything but tensors and these.
    """
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol, before it is refused or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExchangeError(
            f"{path.name} wants to run code or is damaged, and was not opened: {_reason(error)}. If it is yours, load "
            "it where it was made and save its tensors alone: torch.save(module.state_dict(), ...)"
        ) from None
    except OSError as error:
        raise ExchangeError(f"{path.name} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a damaged zip or pickle makes of itself; nothing of it is used
        raise ExchangeError(
            f"{path.name} is not a whole PyTorch file ({type(error).__name__}); fetch it again"
        ) from None


def _reason(error: Exception) -> str:
    """The line of torch's long message that names the culprit."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines[0] if lines else "it is not a tensor file")[:160].rstrip(". ")
