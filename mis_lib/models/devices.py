"""The device that a model computes on: one rule for every verb, for training and for the app."""

import torch

from mis_lib.errors import SettingsError

AUTO = "auto"


def device_for(named: str | None) -> str:
    """The device of that name; of "auto" or ``None`` a CUDA GPU if there is one, else the CPU.

    An Apple GPU is taken only where it is named ("mps"), since nothing here was ever run on one.

    Raises:
        SettingsError: there is no such device here, or none of that name.
    """
    if named is None or named == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(named)
    except RuntimeError as error:
        raise SettingsError(f"device: expected auto, cpu, cuda, cuda:1 or mps, found {named!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"device: expected a CUDA GPU for {named!r}, found none that torch {torch.__version__} can use; "
            "set device: cpu, or install a build of torch for your GPU (mis doctor tells what is there)"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device: expected {named!r}, found {torch.cuda.device_count()} CUDA GPUs, counted from cuda:0"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(
            f"device: expected an Apple GPU for 'mps', found none that torch {torch.__version__} can use; "
            "set device: cpu"
        )
    return named
