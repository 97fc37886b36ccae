"""Fine-tuning.

On a CPU, oneDNN keeps a kernel for every shape of product it has met, 1,024 of them, with memory to work in. Packed rows never have the same length twice,
so that a run grew by gigabytes and kept what it would not use again. Both caches are read from the environment at the first product.
"""

import os

KERNELS = 128  # enough for a vision tower's convolutions and a language model's layers of one shape
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))
