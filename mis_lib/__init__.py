"""Multi-image safety for vision-language models: construct data, fine-tune, generate, judge, analyse.

Imports nothing heavy, so that ``mis --help`` and the app start at once; take what you need from the modules.
"""

import logging
import os

# peft imports bitsandbytes wherever it is installed, which warns on some CPUs about a kernel that nothing here needs
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# where the package kernels is installed, that import fetches the kernel from the hub; an override keeps it from that
_OVERRIDES = os.environ.get("LOCAL_KERNELS")
_KERNEL = "kernels-community/quantization-bitsandbytes=/no/hub/kernel"
if _KERNEL not in (_OVERRIDES or ""):
    os.environ["LOCAL_KERNELS"] = f"{_KERNEL}:{_OVERRIDES}" if _OVERRIDES else _KERNEL

__version__ = "0.1.0"
