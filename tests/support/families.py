"""What works with which family of models: families x steps, each cell on a checkpoint with tiny random weights.

    PYTHONPATH=tests python -m support.families --out docs/families.md      all families; needs torchvision
    PYTHONPATH=tests python -m support.families gemma3 qwen3_5              two of them, to the terminal

Configuration, model and processor are the family's own classes of transformers. Every step is held against plain
transformers in float32: losses row by row, and greedy answers question by question. A cell is "works", "refused" (an
error of this project says why), "not run", or a finding: "wrong" or "crash". Findings make the exit status 1.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

NAMES = {
    "qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_thinking": "Qwen3-VL Thinking",
    "qwen3_vl_moe": "Qwen3-VL (experts)", "qwen3_5": "Qwen3.5", "qwen3_5_moe": "Qwen3.5 (experts)",
    "internvl": "InternVL 2.5, 3, 3.5", "gemma3": "Gemma 3", "gemma4": "Gemma 4", "paligemma": "PaliGemma",
    "llava": "LLaVA-1.5", "llava_next": "LLaVA-NeXT", "llava_onevision": "LLaVA-OneVision", "idefics3": "Idefics3",
    "smolvlm": "SmolVLM, SmolVLM2", "mistral3": "Mistral Small 3.1", "pixtral": "Pixtral-12B",
    "mllama_gated": "Llama 3.2 Vision", "llama4": "Llama 4", "glm4v": "GLM-4.1V", "glm46v": "GLM-4.6V",
    "glm4v_moe": "GLM-4.5V (experts)", "molmo2": "Molmo2", "kimi_k25": "Kimi K2.5 (experts)",
    "minicpm_v": "MiniCPM-V 4.6",
    "ernie": "Ernie 4.5 VL (experts)", "deepseek_vl": "DeepSeek-VL", "lfm2_vl": "LFM2-VL",
    "cohere2_vision": "Command A Vision", "aya_vision": "Aya Vision", "ovis2": "Ovis2",
}  # fmt: skip
IMAGES = (1, 2, 4, 2, 1, 2)  # of the rows
SIZES = ((40, 32), (90, 40), (30, 80), (64, 64), (56, 28))
NEW_TOKENS = 8
PAD, END = 0, 2  # in every tokenizer here; an answer ends at padding, too
CLOSE = 2e-3  # of losses, computed in other orders
SECONDS = 600  # for one family
WORKS, REFUSED, NOT_RUN, WRONG, CRASH = "works", "refused", "not run", "wrong", "crash"

INTRODUCTION = """# Model families

{date}: {packages}; {system}, CPU, float32.
Made by `PYTHONPATH=tests python -m support.families --out docs/families.md`.

Every checkpoint here has the family's own configuration, model and processor class of transformers, **tiny random
weights**, a tokenizer with a token a byte, and a chat template that prints around images and turns what the published
one does. **Never run here: published weights, a GPU, several machines.** How good a model is cannot be seen from this.

*works*: equal to plain transformers, row by row. `check` counts the tokens that the processor makes
(*estimate*: and says where it only estimates). The first loss of
a training is that of the rows alone; what was saved is loaded by transformers or PEFT, and its loss is lower. A run
that was stopped and resumed ends in the same bytes. A merged checkpoint has the adapter's loss. `parity` finds no
difference. `compare` and `generate` give the greedy answers of base and adapter, alone and in batches; *base*: of the
base only, since there is no adapter. *refused*: an error that says why, before anything is trained or answered.
*wrong* and *crash* are faults.
"""
OUTSIDE = """
Not in the table, since transformers has no class for them or loads them as something else (remote code is not run):
Phi-4-multimodal, Kimi-VL, DeepSeek-VL2, MiniCPM-V 2.6, LLaVA-OneVision-1.5.
"""


class Cell(NamedTuple):
    """What came of a step."""

    kind: str
    why: str = ""


class Wrong(Exception):
    """A step ended without an error and its result is not that of plain transformers."""


class NotRun(Exception):
    """A step that has nothing to work on."""


class Trial:
    """One family: its checkpoint, rows, and the runs that later steps build on."""

    def __init__(self, checkpoint: Path, work: Path) -> None:
        self.checkpoint, self.work = checkpoint, work
        self.data = write_rows(work / "data")
        self.rows = [json.loads(line) for line in (self.data / "train.jsonl").read_text().splitlines()]
        self.adapter: Path | None = None
        self.base_loss: float | None = None
        self.adapter_loss: float | None = None

    # ---------------------------------------------------------------- plain transformers

    def _loaded(self, model: Path, adapter: Path | None = None) -> tuple[Any, Any]:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForImageTextToText, AutoProcessor

        network: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
        if adapter is not None:
            network = PeftModel.from_pretrained(network, str(adapter)).eval()
        return network, AutoProcessor.from_pretrained(self.checkpoint)

    def _messages(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        from PIL import Image

        images = [Image.open(self.data / name).convert("RGB") for name in row["images"]]
        parts = [{"type": "image", "image": image} for image in images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": row["question"]}]}]

    def _prompt(self, processor: Any, row: Mapping[str, Any]) -> Any:
        return _tokens(processor, self._messages(row), add_generation_prompt=True)

    def _whole(self, processor: Any, row: Mapping[str, Any]) -> Any:
        """Prompt and answer; the answer as a part with a type, or as a string where the template wants one."""
        question = self._messages(row)
        part = {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}
        try:
            found = _tokens(processor, [*question, part])
            if f"'{row['answer']}'" not in processor.tokenizer.decode(found["input_ids"][0]):
                return found
        except TypeError:
            pass
        return _tokens(processor, [*question, {"role": "assistant", "content": row["answer"]}])

    def loss(self, model: Path, adapter: Path | None = None) -> float:
        """Mean over the answers' tokens, the end of the turn with them, each row alone."""
        import torch

        network, processor = self._loaded(model, adapter)
        losses = []
        for row in self.rows:
            whole, prompt = self._whole(processor, row), self._prompt(processor, row)
            start = prompt["input_ids"].shape[1]
            if not torch.equal(whole["input_ids"][:, :start], prompt["input_ids"]):
                whole = _continued(prompt, whole["input_ids"], processor.tokenizer, row["answer"])
            ids = whole["input_ids"][0].tolist()
            stop = ids.index(END, start) + 1
            if "token_type_ids" in whole and network.config.model_type == "paligemma":
                whole["token_type_ids"][0, start:] = 1  # what follows the prompt is written, not read
            with torch.no_grad():
                logits = network(**whole).logits[0, start - 1 : stop - 1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:stop]), reduction="none"))
        return float(torch.cat(losses).mean())

    def answers(self, adapter: Path | None, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Greedy, each question alone."""
        network, processor = self._loaded(self.checkpoint, adapter)
        said = []
        for row in rows:
            prompt = self._prompt(processor, row)
            made = network.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=[END, PAD])
            asked, text = processor.tokenizer.decode(prompt["input_ids"][0]), processor.tokenizer.decode
            begun = "<think>\n" if asked.endswith("<think>\n") else ""  # a thought that the template opens is shown
            said.append(begun + text(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip())
        return said

    # ---------------------------------------------------------------- steps

    def settings(self, name: str, **more: Any) -> Any:
        from mis_lib.train.settings import TrainSettings

        common: dict[str, Any] = {
            "model": str(self.checkpoint), "data": self.data / "train.jsonl", "runs": self.work / "runs", "name": name,
            "max_steps": 4, "batch_size": len(self.rows), "batch_tokens": 400, "learning_rate": 3e-3,
            "scheduler": "constant", "warmup_ratio": 0.0, "precision": "float32", "device": "cpu",
        }  # fmt: skip
        return TrainSettings(**common | more)

    def check(self) -> str:
        from transformers import AutoProcessor

        from mis_lib.data.preflight import PreflightSettings
        from mis_lib.recipes.check import check

        report = check(self.data / "train.jsonl", PreflightSettings(model=str(self.checkpoint)))
        _hold(report.ready and report.tokens is not None, f"not ready: {[one.message for one in report.findings]}")
        processor = AutoProcessor.from_pretrained(self.checkpoint)
        made = [self._whole(processor, row)["input_ids"].shape[1] for row in self.rows]
        found = [row.total for row in report.tokens.rows] if report.tokens else []
        if report.tokens and not report.tokens.exact:
            return "estimate"
        _hold(found == made, f"tokens of the rows: {found}, of transformers {made}")
        return ""

    def train_lora(self) -> None:
        from mis_lib.recipes.train import train

        folder = train(self.settings("lora"))
        self.base_loss = self.loss(self.checkpoint)
        self._first_loss(folder)
        self.adapter_loss = self.loss(self.checkpoint, folder / "adapter")
        self.adapter = folder / "adapter"
        _hold(self.adapter_loss < self.base_loss, f"loss {self.base_loss} before, {self.adapter_loss} after")

    def train_full(self) -> None:
        from mis_lib.recipes.train import train

        folder = train(self.settings("full", tuning="full", max_steps=2))
        self.base_loss = self.base_loss or self.loss(self.checkpoint)
        self._first_loss(folder)
        after = self.loss(folder / "model")
        _hold(after < self.base_loss, f"loss {self.base_loss} before, {after} after")

    def train_qlora(self) -> None:
        from mis_lib.recipes.train import train
        from mis_lib.train.settings import TrainSettings

        if "quantization" not in TrainSettings.model_fields:
            raise NotRun("there is no setting `quantization` yet")
        folder = train(self.settings("qlora", quantization="nf4"))
        losses = _losses(folder)
        _hold(losses[-1] < losses[0], f"losses {losses}")
        self.loss(self.checkpoint, folder / "adapter")

    def resume(self) -> None:
        from mis_lib.recipes.train import Interrupted, train

        adapter, settings = self._trained(), self.settings("resumed")
        try:
            train(settings, lambda line: os.kill(os.getpid(), signal.SIGTERM) if line.get("step") == 2 else None)
        except Interrupted:
            pass
        else:
            raise Wrong("SIGTERM did not end the run")
        again = train(settings)
        same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (adapter, again / "adapter")]
        _hold(same[0] == same[1], "another adapter than that of a run without a stop")

    def merge(self) -> None:
        from mis_lib.recipes.merge import merge_adapter

        merged = merge_adapter(self._trained(), self.work / "merged", checkpoint=self.checkpoint)
        found = self.loss(merged)
        _hold(abs(found - (self.adapter_loss or 0)) < CLOSE, f"loss {found}, of the adapter {self.adapter_loss}")

    def parity(self) -> None:
        from mis_lib.probe.parity import first_difference
        from mis_lib.recipes.parity import ParitySettings, parity

        report = parity(
            ParitySettings(
                checkpoint=self.checkpoint, adapters={"mine": self._trained()}, data=self.data / "train.jsonl", limit=2,
                max_new_tokens=NEW_TOKENS, device="cpu",
            )
        )  # fmt: skip
        first = first_difference(report.findings)
        _hold(first is None, f"{first}")

    def compare(self) -> str:
        from mis_lib.recipes.compare import compare
        from mis_lib.settings import GenerationSettings

        row = self.rows[1]
        adapters = {} if self.adapter is None else {"mine": self.adapter}
        *_, columns = compare(
            [self.data / name for name in row["images"]], row["question"], None,
            GenerationSettings(max_new_tokens=NEW_TOKENS), checkpoint=self.checkpoint, adapters=adapters, device="cpu",
        )  # fmt: skip
        for column in columns:
            (wanted,) = self.answers(adapters.get(column.variant), [row])
            _hold(column.text.strip() == wanted.strip(), f"{column.variant}: {column.text!r}, transformers {wanted!r}")
        return "" if adapters else "base"

    def generate(self) -> str:
        from mis_lib.recipes.generate import generate_run
        from mis_lib.recipes.settings import GenerateSettings
        from mis_lib.settings import GenerationSettings

        adapters = {} if self.adapter is None else {"mine": self.adapter}
        settings = GenerateSettings(
            checkpoint=self.checkpoint, adapters={"base": None, **adapters}, variants=("base", *adapters),
            data=self.data / "train.jsonl", runs=self.work / "runs", device="cpu",
            generation=GenerationSettings(max_new_tokens=NEW_TOKENS),
        )  # fmt: skip
        answered = generate_run(settings)
        _hold(not answered.missing, f"missing: {answered.missing}")
        texts = {(one.variant, one.sample_id): one.text for one in answered.responses}
        for variant in settings.variants:
            for row, wanted in zip(self.rows, self.answers(adapters.get(variant), self.rows), strict=True):
                found = texts[variant, row["id"]]
                _hold(found.strip() == wanted.strip(), f"{variant}, {row['id']}: {found!r}, transformers {wanted!r}")
        return "" if adapters else "base"

    def _trained(self) -> Path:
        if self.adapter is None:
            raise NotRun("no adapter could be trained")
        return self.adapter

    def _first_loss(self, folder: Path) -> None:
        first = _losses(folder)[0]
        _hold(abs(first - (self.base_loss or 0)) < CLOSE, f"first loss {first}, of the rows alone {self.base_loss}")


STEPS: dict[str, Callable[[Trial], str | None]] = {
    "check": Trial.check, "LoRA": Trial.train_lora, "full": Trial.train_full, "QLoRA": Trial.train_qlora,
    "resume": Trial.resume, "merge": Trial.merge, "parity": Trial.parity, "compare": Trial.compare,
    "generate": Trial.generate,
}  # fmt: skip


def write_rows(folder: Path) -> Path:
    """Rows with one, two and four images of several shapes; returns the folder."""
    from PIL import Image

    folder.mkdir(parents=True)
    for at, size in enumerate(SIZES):
        Image.effect_noise(size, 80 + at).convert("RGB").save(folder / f"{at}.png")
    rows = [
        {
            "id": f"row-{at}", "question": f"What is this? ({at})", "answer": f"Thing number {at}, I think.",
            "images": [f"{(at + place) % len(SIZES)}.png" for place in range(number)],
            "category": "Violent", "harmful": False, "split": "train",
        }
        for at, number in enumerate(IMAGES)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def builders() -> dict[str, Callable[[Path], Path]]:
    """How to write the checkpoint of each family."""
    from support import tiny_architectures, tiny_families

    return (
        tiny_architectures.BUILDERS
        | tiny_architectures.ANSWERS_ONLY
        | tiny_architectures.OTHERS
        | tiny_families.FAMILIES
    )


def cells(family: str, tell: Callable[[str, Cell], None]) -> None:
    """Build a family and take all steps; ``tell`` is called after each."""
    with tempfile.TemporaryDirectory() as work:
        os.environ["MIS_CACHE"] = str(Path(work) / "cache")
        try:
            trial = Trial(builders()[family](Path(work) / family), Path(work))
        except ImportError as error:
            for step in STEPS:
                tell(step, Cell(NOT_RUN, _short(error, work)))
            return
        for step, take in STEPS.items():
            cell = _taken(take, trial, work)
            print(f"{step}: {' '.join(cell)}", flush=True)
            tell(step, cell)


def _taken(take: Callable[[Trial], str | None], trial: Trial, work: str) -> Cell:
    from mis_lib.errors import MisError, MissingPackageError

    try:
        return Cell(WORKS, take(trial) or "")
    except (NotRun, MissingPackageError) as error:
        return Cell(NOT_RUN, _short(error, work))
    except MisError as error:
        return Cell(REFUSED, _short(error, work))
    except Wrong as error:
        return Cell(WRONG, _short(error, work))
    except Exception as error:  # noqa: BLE001 - whatever escapes is a fault, and a cell
        traceback.print_exc()
        return Cell(CRASH, f"{type(error).__name__}: {_short(error, work)}")


def matrix(families: Sequence[str], log: Path) -> Iterator[tuple[str, dict[str, Cell]]]:
    """Each family and its cells. A family has a process of its own, forked after the slow imports, that may die."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import mis_lib.recipes.compare
    import mis_lib.recipes.train
    import mis_lib.train.run  # noqa: F401

    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for family in families:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_alone, args=(family, sender, log / f"{family}.log"))
        process.start()
        sender.close()
        mine: dict[str, Cell] = {}
        with contextlib.suppress(EOFError):
            while receiver.poll(SECONDS):
                step, cell = receiver.recv()
                mine[step] = Cell(*cell)
        if process.is_alive() and len(mine) < len(STEPS):
            process.kill()
        process.join()
        for step in STEPS:
            mine.setdefault(step, Cell(CRASH, f"the process ended with status {process.exitcode}"))
        print(f"{NAMES[family]}: " + ", ".join(f"{step} {cell.kind}" for step, cell in mine.items()), file=sys.stderr)
        yield family, mine


def _alone(family: str, sender: Any, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        cells(family, lambda step, cell: sender.send((step, tuple(cell))))


def markdown(found: Mapping[str, Mapping[str, Cell]]) -> str:
    """The table, and below it what its numbers say."""
    notes: list[str] = []

    def shown(cell: Cell) -> str:
        if cell.kind == WORKS:
            return f"{cell.kind} ({cell.why})" if cell.why else cell.kind
        if cell.why not in notes:
            notes.append(cell.why)
        kind = cell.kind if cell.kind in (REFUSED, NOT_RUN) else f"**{cell.kind}**"
        return f"{kind} [{notes.index(cell.why) + 1}]"

    lines = [f"| family | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
    for family, mine in found.items():
        lines.append(f"| {NAMES[family]} | {' | '.join(shown(mine[step]) for step in STEPS)} |")
    listed = [f"{at}. {note}" for at, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *listed]) + "\n"


def page(found: Mapping[str, Mapping[str, Cell]]) -> str:
    """docs/families.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch", "bitsandbytes"))
    head = INTRODUCTION.format(date=date.today(), packages=packages, system=platform.system())
    return f"{head}\n{markdown(found)}{OUTSIDE}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where something is wrong or crashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, help="write the page of documentation here")
    parser.add_argument("--log", type=Path, help="folder for what each family printed, tracebacks with it")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.families if name not in NAMES]:
        parser.error(f"expected families of {', '.join(NAMES)}, found {', '.join(unknown)}")
    log = given.log or Path(tempfile.mkdtemp(prefix="families-"))
    log.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, dict[str, Cell]] = {}
    for family, mine in matrix(given.families or list(NAMES), log):
        found[family] = mine
        if given.out is not None:  # after each: many minutes are not lost with the last one
            given.out.write_text(page(found), encoding="utf-8")
    print(markdown(found))
    print(f"what each family printed: {log}", file=sys.stderr)
    return int(any(cell.kind in (WRONG, CRASH) for mine in found.values() for cell in mine.values()))


def _tokens(processor: Any, messages: Sequence[Mapping[str, Any]], **more: Any) -> Any:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **more)


def _continued(prompt: Any, whole: Any, tokenizer: Any, answer: str) -> Any:
    """The prompt with the answer's tokens behind it: some templates print the two with another space between them."""
    import torch

    start = max(at for at in range(whole.shape[1]) if tokenizer.decode(whole[0, at:]).startswith(answer))
    ids = torch.cat([prompt["input_ids"], whole[:, start:]], dim=1)
    known = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in {"token_type_ids", "mm_token_type_ids"} & {*prompt}:
        known[name] = torch.cat([prompt[name], torch.zeros_like(whole[:, start:])], dim=1)
    return {name: value for name, value in {**prompt, **known}.items() if name != "labels"}


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _hold(holds: bool, why: str) -> None:
    if not holds:
        raise Wrong(why)


def _short(error: BaseException, work: str) -> str:
    """One line, without the machine's folders and a table's signs."""
    text = " ".join(str(error).split()).replace(f"{work}/", "").replace("|", "/")
    return text if len(text) <= 300 else f"{text[:300]} ..."


if __name__ == "__main__":
    sys.exit(main())
