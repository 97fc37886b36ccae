"""Pictures from a local diffusers pipeline: by default Stable Diffusion 3.5 Large, as in the paper (section 3.2).

diffusers is imported with the first picture; ``pip install "mis-workbench[gpu]"`` installs it. Nothing is downloaded:
the model is a folder, or is in the local hub cache. Pictures are cached like chat answers.
"""

import asyncio
import base64
import functools
import importlib
from typing import Any

from mis_lib.clients.cache import Cache
from mis_lib.clients.images import encode
from mis_lib.clients.protocol import Cost, ImageAsk, ImageReply
from mis_lib.errors import MissingPackageError, ModelError

DEFAULT_MODEL = "stabilityai/stable-diffusion-3.5-large"
SIDE = 1024
STEPS = 28  # what the model's card recommends for SD 3.5 Large, with the guidance below
GUIDANCE = 3.5


class DiffusionImages:
    """A text-to-image pipeline; ``model`` is a folder or the id of a model in the local hub cache."""

    vocabulary = None

    def __init__(self, model: str, cache: Cache, device: str = "cuda", *, side: int = SIDE, steps: int = STEPS) -> None:
        require_diffusers()
        self.name = f"diffusers:{model}"
        self._model, self._cache, self._device, self._side, self._steps = model, cache, device, side, steps
        self._turn = asyncio.Lock()

    async def make(self, ask: ImageAsk) -> ImageReply:
        """Make one picture.

        Raises:
            ModelError: the pipeline cannot be loaded.
        """
        question = {"maker": self.name, "prompt": ask.prompt, "seed": ask.seed, "size": [self._side, self._steps]}
        made = await self._cache.once(question, lambda: self._draw(ask))
        return ImageReply(base64.b64decode(made["image"]), Cost(calls=1))

    async def _draw(self, ask: ImageAsk) -> dict[str, Any]:
        async with self._turn:  # one pipeline, one picture at a time
            content = await asyncio.to_thread(self._run, ask)
        return {"image": base64.b64encode(content).decode()}

    def _run(self, ask: ImageAsk) -> bytes:
        import torch

        dice = torch.Generator("cpu").manual_seed(ask.seed)  # on the CPU: the same picture on every card
        made = self._pipeline(
            prompt=ask.prompt,
            height=self._side,
            width=self._side,
            num_inference_steps=self._steps,
            guidance_scale=GUIDANCE,
            generator=dice,
        )
        return encode(made.images[0].convert("RGB"))

    @functools.cached_property
    def _pipeline(self) -> Any:
        import torch

        dtype = torch.bfloat16 if self._device.startswith("cuda") else torch.float32
        try:
            pipeline = require_diffusers().DiffusionPipeline.from_pretrained(
                self._model, torch_dtype=dtype, local_files_only=True
            )
            return pipeline.to(self._device)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{self._model} cannot be loaded by diffusers: {str(error).strip().splitlines()[0]}; "
                f"give the folder of a pipeline, or fetch it first: hf download {self._model}"
            ) from error


def require_diffusers() -> Any:
    """The diffusers package.

    Raises:
        MissingPackageError: it is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise MissingPackageError(
            f'--images diffusers needs the package diffusers ({error}); pip install "mis-workbench[gpu]"'
        ) from error
