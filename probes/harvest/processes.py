"""Several processes on one harvest: `torchrun` or `accelerate launch` starts them, `accelerate` tells them apart.

    torchrun --nproc-per-node 2 -m probes train ...                          on CPUs
    accelerate launch --multi_gpu --num_processes 2 -m probes train ...      on GPUs, one each (works on CPUs too)

(`accelerate launch --cpu --num_processes 2` starts one process only, unless MPI is given.)

Every process reads shards that no other has claimed, until all are finished; then the first one goes on alone. A shard
is the same whoever reads it, given the same kind of device and as many torch threads, so the outcome is that of one
process, bit for bit. Claims are file locks, so that the shard of a process that died is read by another; they all need
to see one work folder. The processes talk to each other only to begin together: what the first decides, the others
are told, errors included; if one is gone by then the rest stop with an error rather than wait.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch

from probes.errors import HarvestError
from probes.harvest.shards import ShardFolder
from steering.errors import TillerError
from steering.models import choose_threads

Answer = TypeVar("Answer")

_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_PATIENCE = timedelta(days=14)
"""How long a process may wait for the first one, which fits a probe meanwhile; one that died is noticed at once."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Team:
    """The processes of one launch, as one of them sees it."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that fits, writes and talks."""
        return self.rank == 0

    def agree(self, decide: Callable[[], Answer]) -> Answer:
        """What `decide` returns or raises in the first process, in every process.

        Raises HarvestError where a process of the team is gone.
        """
        if self.size == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        answer: Answer | None = None
        error: Exception | None = None
        if self.first:
            try:
                answer = decide()
            except Exception as raised:
                error = raised
        told = error if error is None or isinstance(error, TillerError) else HarvestError(f"the first process: {error}")
        message = [answer, told]
        try:
            broadcast_object_list(message)
        except RuntimeError as lost:
            error = error or HarvestError(
                f"another of the {self.size} processes of this run has ended; finished shards are kept: run the same "
                "command again to resume"
            )
            raise error from lost
        if error or message[1]:
            raise error or message[1]  # type: ignore[misc]
        return message[0]  # type: ignore[return-value]

    def share(self, shards: ShardFolder, pending: list[int], make: Callable[[int], None]) -> None:
        """Call `make` with every shard of `pending` that falls to this process; return when all are finished."""
        if self.size == 1:
            for shard in pending:
                make(shard)
            return
        start = self.rank * len(pending) // self.size  # neighbours begin apart, so that claims seldom meet
        waiting = pending[start:] + pending[:start]
        while waiting:
            for shard in waiting:
                if shards.finished(shard):
                    continue
                with shards.claimed(shard) as mine:
                    if mine:
                        make(shard)
            left = [shard for shard in waiting if not shards.finished(shard)]
            if left == waiting:
                time.sleep(_POLL_SECONDS)
            waiting = left

    def device(self, wanted: str) -> str:
        """The device of this process: with several, "auto" and "cuda" are a GPU each."""
        if self.size > 1 and wanted in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        return wanted

    def threads(self, wanted: int | None) -> int | None:
        """Torch threads, the same in every process: `wanted`, $TILLER_THREADS, or a share of the cores not busy."""
        if self.size == 1:
            return wanted
        given = wanted is not None or "TILLER_THREADS" in os.environ
        return self.agree(lambda: choose_threads(wanted) if given else max(1, choose_threads() // self.size))


@cache
def team() -> Team:
    """The processes this one was started with; alone unless a launcher says otherwise."""
    if all(int(os.environ.get(name) or 1) == 1 for name in _WORLD):
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    atexit.register(state.destroy_process_group)  # else a process that ends first may abort in its threads
    return Team(state.num_processes, state.process_index, state.local_process_index)
