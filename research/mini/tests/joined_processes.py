"""What one of several processes does that train together; a module of its own, since each process imports it and should
import little else.
"""

import os
from pathlib import Path

import torch

from research.mini import together


def work(rank: int, folder: str, port: int) -> None:
    """Begin alike, average, agree, and keep in ``folder`` what came of it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with together.joined() as place:
        assert place == (rank, 2)
        assert together.part(96) == 48
        weight = torch.nn.Parameter(torch.full((2,), float(rank)))
        together.begin_alike([weight])
        weight.grad = torch.full((2,), rank + 1.0)
        together.average([weight])
        torch.save((weight.data, weight.grad, together.agree(rank)), Path(folder) / f"{rank}.pt")
    assert not torch.distributed.is_initialized()
