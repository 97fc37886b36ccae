"""The base on a CPU: the same parts as ``base``, ordered so that nothing costly is done twice.

    python -m research.mini.on_cpu STEP, where STEP is one of
      distil --assets A --work W                       helpful answers, in text (5 min)
      dream  --assets A --work W                       dreams of classes that are drawn, too (13 min)
      see    --assets A --work W                       tower features of every picture (19 min on one core)
      align  --assets A --work W --start B             the projector alone: photographs, other styles (5 min)
      base   --assets A --work W --start B --seconds 3600
      widen  --assets A --work W --start B             the projector alone: other styles, where it lies already
      goals  --assets A --work M --model mini-FOLDER   what that model, with another tower, projects drawings
                                                       to: for widen, tune and score --goals
      tune   --assets A --work M --start B --out W     the tower's second end; M from ``see --midway``
      mean   --assets A --work W --start B --other W X --out V of ends that were tuned on from one another
      score  --assets A --work M --start B --other W X what each sees of styles and hands none was tuned to
      again  --assets A --work M --start W --out W     what the tuned end makes of every picture
      eyes   --assets A --work W --start B             the projector alone, with the language model in the loop
      read   --assets A --work W --start B             names that the tower's classifier sees; after all else
      tell   --assets A --work W --start B             the same, with the language model in the loop; after read

Two cores do ``base`` faster as two processes of one thread than as one of two (``tune``, ``eyes`` and ``tell`` take two
as well): RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 before the one command, the same with RANK=1
before the other, OMP_NUM_THREADS=1 and ``taskset -c`` 0 and 1.

A (``assets``) is the raw material and ``distilled.json``, W what the steps hand on, B a folder of base weights to go on
from. Eight minutes on an H100 see 140,000 rows, an hour on one core some 30,000: a CPU run improves weights, it does
not make them.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from research.mini import together
from research.mini.cpu_steps import TOKENS, align_projector, train_base, train_eyes, widen_projector
from research.mini.curriculum import SHARES
from research.mini.eye_steps import look_again, mean_of_eyes, note_goals, score_eyes, tune_end
from research.mini.material import SCENES, VIEWS, Material, distil_answers, dream_known, see
from research.mini.photo_steps import tell_names, train_reader
from research.mini.tuning import BATCH


def main() -> None:
    """Run one step from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "step",
        choices=(
            "distil",
            "dream",
            "see",
            "align",
            "base",
            "widen",
            "goals",
            "tune",
            "mean",
            "score",
            "again",
            "eyes",
            "read",
            "tell",
        ),
    )
    options.add_argument("--assets", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--start", type=Path, help="folder with projector.safetensors and update.safetensors")
    options.add_argument("--other", type=Path, nargs="+", default=[], help="of mean and score: more such folders")
    options.add_argument("--model", type=Path, help="of goals: a whole mini, as `mis build` makes it")
    options.add_argument("--goals", type=Path, help="of widen, tune and score: goals.pt that step goals has written")
    options.add_argument("--out", type=Path, help="default: the work folder")
    options.add_argument("--seconds", type=float, default=720)
    options.add_argument("--steps", type=int, default=900, help="of align, widen, tune and read")
    options.add_argument(
        "--shares", type=float, nargs=6, default=SHARES, help="of rows: one, two, which, many, help, talk"
    )
    options.add_argument("--tokens", type=int, default=TOKENS, help="tokens a batch, padding included")
    options.add_argument("--score_items", type=int, help="score on this many items or concepts only")
    options.add_argument("--pairs", type=int, default=500, help="of distil: questions about two things")
    options.add_argument("--uses", type=int, default=250, help="of distil: questions about one thing")
    options.add_argument("--chats", type=int, default=200, help="of distil: questions without pictures")
    options.add_argument("--answer_batch", type=int, default=48, help="of distil: questions answered at once")
    options.add_argument("--augmented", type=int, default=VIEWS, help="of see: augmented views a picture")
    options.add_argument("--scenes", type=int, default=SCENES, help="of see: views of a drawing as MIS-Mini shows it")
    options.add_argument("--midway", action="store_true", help="of see: features where the tower's ends begin")
    options.add_argument("--every", type=int, default=1, help="of again: one view in so many")
    options.add_argument("--batch", type=int, default=BATCH, help="of tune: views a step, all processes together")
    options.add_argument(
        "--often", type=float, default=1.0, help="of tune: how much more often things of MIS-Mini are shown"
    )
    options.add_argument("--lr", type=float, default=5e-4)
    options.add_argument("--seed", type=int, default=0)
    settings = options.parse_args()
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    out = settings.out or settings.work
    out.mkdir(parents=True, exist_ok=True)
    if settings.step == "distil":
        counts = {"pairs": settings.pairs, "uses": settings.uses, "chats": settings.chats}
        distil_answers(settings.assets, **counts, batch=settings.answer_batch, seed=settings.seed)
        return
    if settings.step == "dream":
        dream_known(settings.assets, settings.work, settings.seed)
        return
    if settings.step == "see":
        see(
            settings.assets, settings.work, augmented=settings.augmented, scenes=settings.scenes, midway=settings.midway
        )
        return
    if settings.step == "goals":
        if settings.model is None:
            options.error("goals: expected --model FOLDER, found none")
        note_goals(settings.model, settings.work, out)
        return
    if settings.step == "mean":
        mean_of_eyes(settings.start, settings.other, out)
        return
    with together.joined() as (rank, _):
        if rank:  # what the others write is the same, and nobody reads it
            out = Path(tempfile.mkdtemp())
        result = _train(settings, out, rank)
    (out / f"result-{settings.step}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result), flush=True)


def _train(settings: argparse.Namespace, out: Path, rank: int) -> dict[str, Any]:
    material = Material(settings.assets, settings.work, settings.shares)
    if settings.step == "again":
        return look_again(material, settings.start, out, every=settings.every)
    if settings.step == "score":
        return score_eyes(material, [settings.start, *settings.other], settings.goals)
    tuned = partial(tune_end, goals=settings.goals, batch=settings.batch, often=settings.often)
    widened = partial(widen_projector, goals=settings.goals)
    steps = {"align": align_projector, "widen": widened, "tune": tuned, "read": train_reader}
    if settings.step in steps:
        seed = settings.seed + rank  # each process draws views of its own
        return steps[settings.step](material, settings.start, out, steps=settings.steps, lr=settings.lr, seed=seed)
    loop = {"tokens": settings.tokens, "lr": settings.lr, "seconds": settings.seconds}
    loop["seed"] = settings.seed + rank
    alone = {"eyes": train_eyes, "tell": tell_names}
    if settings.step in alone:
        return alone[settings.step](material, settings.start, out, **loop)
    return train_base(material, settings.start, out, score_items=settings.score_items, **loop)


if __name__ == "__main__":
    main()
