"""Multi-image safety for vision-language models: construct data, fine-tune, generate, judge, analyse.

Imports nothing, so that ``mis --help`` and the app start at once; take what you need from the modules.
"""

__version__ = "0.1.0"
