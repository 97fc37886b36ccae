"""What cannot be done ends with status 2 and one message that names what is wrong: never a traceback, never a half-made
file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = "--checkpoint tiny --adapters tuned=tuned"

MISTAKES = {
    # words on the command line: what the message must name
    "report --existing nowhere": "nowhere",
    "report --existing runs/mini --judges nobody": "nobody",
    "report --existing runs/mini --variants nobody": "nobody",
    "report --existing runs/mini --splits nowhere": "nowhere",
    "report --existing runs/mini --by nonsense": "nonsense",
    "report --existing runs/mini runs/mini": "twice",
    "report --existing runs/mini --paired mini": "paired",
    "report --existing runs/mini --paired mini nobody": "nobody",
    "report --existing runs/shards": "mis judge",
    "report --existing runs/mini --format nonsense": "nonsense",
    "report --existing runs/mini runs/tiny --note two": "note",
    "report --existing runs/mini --regression nowhere": "nowhere",
    "report --existing runs/mini --set nonsense=1": "nonsense",
    "report --existing runs/mini --config nowhere.yaml": "nowhere.yaml",
    f"report --data nowhere {TINY}": "nowhere",
    f"report --data pairs {TINY} --splits nowhere": "nowhere",
    f"report --data pairs {TINY} --questions nowhere.txt": "nowhere.txt",
    f"report --data pairs {TINY} --batch_size 0": "batch_size",
    "judge nowhere": "nowhere",
    "judge runs/mini --judges nonsense": "nonsense",
    "judge runs/mini --judges rubric": "rubric",
    "judge runs/mini --judges rubric=gpt-4o": "gpt-4o",
    "judge runs/mini --judges other:rule": "other",
    "judge runs/mini --judges rule rule": "rule",
    "judge runs/mini --variants nobody": "nobody",
    "judge runs/mini --route words rule": "--route",
    "judge runs/mini --route words rule nobody": "nobody",
    "judge runs/mini --route words rule guard": "expected",
    "judge runs/mini --calibrate nobody": "nobody",
    "judge runs/mini --concurrency 0": "concurrency",
    "judge runs/mini --people nowhere --calibrate rule": "nowhere",
    f"generate --data nowhere {TINY}": "nowhere",
    f"generate --data pairs {TINY} --splits nowhere": "nowhere",
    f"generate --data pairs {TINY} --variants nobody": "nobody",
    f"generate --data pairs {TINY} --only nobody": "nobody",
    f"generate --data pairs {TINY} --name ../up": "../up",
    f"generate --data pairs {TINY} --limit 0": "limit",
    f"generate --data pairs {TINY} --shard 5/4": "5/4",
    "generate --data pairs --checkpoint nowhere": "nowhere",
    "generate --data pairs --checkpoint tiny --adapters tuned": "tuned",
    "generate --data pairs --checkpoint tiny --adapters base=tuned": "base",
    "generate --data pairs --checkpoint tiny --adapters tuned=nowhere": "nowhere",
    "generate --data pairs --server nonsense": "--server",
    "compare --images nowhere.png --question what? --checkpoint tiny --adapters tuned=tuned": "nowhere.png",
    "compare --images pairs/images/house-twemoji-2.png --question what? --checkpoint tiny --adapters tuned=tuned"
    " --variants nobody": "nobody",
    "merge nowhere out --checkpoint tiny": "nowhere",
    "merge tuned tiny --checkpoint tiny": "tiny",
    "import --answers theirs=nowhere.jsonl --data pairs": "nowhere.jsonl",
    "import --answers theirs.jsonl --data pairs": "theirs.jsonl",
    "import --answers a=theirs.jsonl a=theirs.jsonl --data pairs --splits hard": "a",
    "import --answers theirs=theirs.jsonl --data pairs --splits easy": "theirs.jsonl",
    "import --answers theirs=theirs.jsonl --data pairs --splits hard --field nonsense": "nonsense",
    "export --input nowhere --format trl --output out": "nowhere",
    "export --input rows --format nonsense --output out": "nonsense",
    "export --input rows --format trl --output out --split nowhere": "nowhere",
    "export --input rows --format trl --output out --loader nonsense": "nonsense",
    "check nowhere": "nowhere",
    "check rows --against nowhere": "nowhere",
    "check rows --mixture nonsense": "nonsense",
    "check rows --output out": "--output",
    "check rows --mixture refusal --duplicates": "--duplicates",
    "check hub:nonsense": "nonsense",
    "check hub: --duplicates": "--duplicates",
    "check rows --set nonsense=1": "nonsense",
    "construct --out out --teacher builtin": "--teacher",
    "construct --out out --source stages --icons 2": "--icons",
    "construct --out out --source stages --stage nonsense": "nonsense",
    "construct --out out --source nonsense": "nonsense",
    "construct --out pairs --source stages --teacher nonsense": "pairs",
    "annotations export --output out.jsonl --salt pepper": "--salt",
    "annotations export --output out.jsonl --format nonsense": "nonsense",
    "annotations import --input nowhere.jsonl": "nowhere.jsonl",
    "annotations import --input annotations.jsonl --author ada": "--author",
    "annotations import --input rows/train.jsonl": "train.jsonl",
    "annotations delta --authors nobody": "none that fit",
    "annotations delta --run nobody/v1": "none that fit",
    "annotations delta --causes nonsense": "nonsense",
    "ablate --data pairs --checkpoint tiny --states nonsense": "nonsense",
    f"ablate --data pairs {TINY} --variants nobody": "nobody",
    "analyse nonsense": "nonsense",
    f"analyse spectrum {TINY} --variants nobody": "nobody",
    "parity --checkpoint tiny --adapters tuned=nowhere --data pairs": "nowhere",
    f"parity {TINY} --data pairs --forms nonsense": "nonsense",
    "study --arms nonsense": "nonsense",
    "study --config nowhere.yaml": "nowhere.yaml",
    "train --config nowhere.yaml": "nowhere.yaml",
    "train --set nonsense=1": "nonsense",
    "train --config train.yaml --set learning_rate=2": "learning_rate",
    "train --config train.yaml --set mixture=nonsense": "nonsense",
    "train --config train.yaml --set data=nowhere": "nowhere",
    "train --config train.yaml --set model=nowhere": "nowhere",
    "notebooks --only 99": "99",
    "notebooks --execute --set nonsense": "nonsense",
    "build nonsense": "nonsense",
    "build --gguf nowhere.gguf": "nowhere.gguf",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(whole: Path, mis: Callable[..., Any], words: str) -> None:
    said = mis(*words.split())
    assert said.status == 2, said
    assert "Error" in said.err and "Traceback" not in said.err and not said.out
    assert MISTAKES[words] in said.err
