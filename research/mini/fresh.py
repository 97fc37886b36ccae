"""The eyes tuned on views that are drawn anew at every step.

One command for a GPU, where a CPU takes its views from those computed once (``on_cpu tune``).

    mis build --train gather A
    mis build --train fresh --assets A --out W --seconds 480

Goes on from the shipped weights, or from those in ``--start``, such as the W of a run before. Of mini only the tower's
second end and the projector's first layer change, and things stay where the language model reads them: its update, the
names of photographs and every adapter remain of use. W is a folder of base weights (``drawings.safetensors``,
``projector.safetensors`` ...), written every ``--save_every`` steps and, with the mean of the later weights, at the
end; put in the place of ``mis_lib/models/mini/adapters/base``, it is what `mis build` assembles.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mis_lib.construct.drawings import STYLES
from mis_lib.models.mini.assemble import ADAPTERS, assemble, merge_base
from research.mini.aims import LOTS, aims_of
from research.mini.align import Codebook
from research.mini.assets import ALL_STYLES, load_drawings
from research.mini.eye_steps import save_eyes, tower_of, trainable
from research.mini.features import FRAMED, FeatureBank, scenery
from research.mini.loop import TowerBank
from research.mini.material import Drawings
from research.mini.pictures import Picture, PictureBank
from research.mini.tuning import End, Midway, tune
from research.mini.unseen import scores, table_things

FRAMED_SHARE = 0.5  # of views by hands of their own: shown much as MIS-Mini would, the rest augmented


class FreshViews:
    """Draws a view of each of some things, in styles by lot, and sees it as far as where the tower's ends begin.

    Features (things, 784, 40) in float32.

    Args:
        pictures: the drawings, on the device.
        midway: the tower up to there, on the same one.
    """

    def __init__(self, pictures: PictureBank, midway: TowerBank) -> None:
        self.pictures, self.midway = pictures, midway

    def __call__(self, things: Sequence[int], dice: random.Random) -> torch.Tensor:
        """As ``tuning.Shown``."""
        styles = torch.multinomial(self.pictures.lots[torch.tensor(things, device=self.pictures.device)], 1)[:, 0]
        shown = [
            Picture("drawn", thing, self.pictures.styles[style])
            for thing, style in zip(things, styles.tolist(), strict=True)
        ]
        framed = [at for at, one in enumerate(shown) if one.style in FRAMED and dice.random() < FRAMED_SHARE]
        others = sorted(set(range(len(shown))) - set(framed))
        features: list[torch.Tensor] = [torch.empty(0)] * len(shown)
        for rows, draw in ((framed, self.midway.framed), (others, self._augmented)):
            if rows:
                for row, seen in zip(rows, draw([shown[row] for row in rows]), strict=True):
                    features[row] = seen
        return torch.stack(features).float()

    def _augmented(self, pictures: list[Picture]) -> torch.Tensor:
        return self.midway.features(pictures, augment=True)


def tune_afresh(
    assets: Path,
    start: Path,
    out: Path,
    *,
    device: str,
    seconds: float,
    steps: int,
    batch: int,
    often: float,
    lr: float,
    seed: int,
    save_every: int,
    icons: int | None = None,
) -> dict[str, Any]:
    """Tune the tower's second end and the projector of ``start`` on fresh views, and write base weights to ``out``.

    Args:
        assets: the raw material (``gather``).
        start: base weights to go on from.
        out: made if it is not there.
        device: draws, sees and tunes.
        seconds: of tuning.
        steps: at most so many.
        batch: views a step.
        often: how much more often things of MIS-Mini's element table are shown than others.
        lr: of the end.
        seed: of everything that is drawn by lot.
        save_every: steps.
        icons: score on the first so many of those that are kept from the eyes (all).

    Returns:
        Losses, steps, views a second and the device, and what the eyes before, the last ones and the mean see of what
        none was tuned to (``unseen.scores``).
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    drawings, drawn = load_drawings(assets)
    print({"drawings": list(drawings.shape), "seconds": round(time.monotonic() - began, 1)}, flush=True)
    nothing = np.zeros((0, 1, 1, 4), dtype=np.uint8), np.zeros((0, 3, 1, 1), dtype=np.uint8)
    pictures = PictureBank(drawings, list(ALL_STYLES), *nothing, device)
    model, _ = assemble(next(assets.glob("*.gguf")), next(assets.glob("*.pth")))
    model.float().requires_grad_(False)
    merge_base(model, start)
    projector = trainable(model.model.multi_modal_projector, start).to(device)
    here = Drawings(model, drawn, FeatureBank([], torch.empty(0), device))
    tower = tower_of(here, start).to(device)
    midway = TowerBank(pictures, Midway(tower))
    end = End(tower, torch.bfloat16 if device.startswith("cuda") else None)
    before = nn.Sequential(copy.deepcopy(end), copy.deepcopy(projector)).requires_grad_(False)
    plain = [picture for style in STYLES for picture, _ in here.drawings_in(style)]
    views, parts = scenery(midway, plain, drawn, LOTS)
    here.bank = FeatureBank(views, torch.cat(parts).to(device), device)
    print({"plain drawings": len(views), "seconds": round(time.monotonic() - began, 1)}, flush=True)
    aims, known, started = aims_of(before, here.bank), table_things(), time.monotonic()
    mean_end, mean_projector, losses = tune(
        end, projector, aims, here.bank, steps=steps, lr=lr, seed=seed, batch=batch,
        often=[often if name in known else 1.0 for name in drawn],
        shown=FreshViews(pictures, midway), seconds=seconds, save=lambda: save_eyes(end, projector, start, out),
        save_every=save_every,
    )  # fmt: skip
    speed = losses["steps"] * batch / (time.monotonic() - started)
    save_eyes(mean_end, mean_projector, start, out)
    eyes = (before, nn.Sequential(end, projector), nn.Sequential(mean_end, mean_projector))
    seen = scores(here, Codebook(drawn, aims.places), eyes, limit=icons)
    result = {**losses, "views_per_second": round(speed, 1), "device": _name(device), **seen}
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def main() -> None:
    """Run the stage from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--assets", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--start", type=Path, default=ADAPTERS / "base", help="default: the shipped weights")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--seconds", type=float, default=480, help="of tuning")
    options.add_argument("--steps", type=int, default=100_000)
    options.add_argument("--batch", type=int, default=384, help="views a step")
    options.add_argument("--often", type=float, default=2.0, help="how much more often things of MIS-Mini are shown")
    options.add_argument("--lr", type=float, default=5e-4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--save_every", type=int, default=500)
    options.add_argument("--icons", type=int, help="score on so many kept icons only (for a quick try)")
    settings = vars(options.parse_args())
    result = tune_afresh(settings.pop("assets"), settings.pop("start"), settings.pop("out"), **settings)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
