"""Multi-image safety for vision-language models: construct data, fine-tune, generate, judge, analyse.

Imports nothing heavy, so that ``mis --help`` and the app start at once; take what you need from the modules.
"""

import logging

# peft imports bitsandbytes wherever it is installed, which warns on some CPUs about a kernel that nothing here needs
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
