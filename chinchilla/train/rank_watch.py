"""Ends a rank within a minute after another rank of its worker has died, even in a collective that hangs.

A killed process closes its connections, which raises an error in the others. A node that loses power, or a
process that hangs, does not; nor does an error end a rank that waits for its GPU. Therefore a thread of each
rank sends heartbeats through the store of the ranks (`RankGroup.heartbeat`). When the ranks cannot continue,
the main thread gets some time to record the cause; then the process is ended.
"""

import os
import sys
import threading
import time
from types import TracebackType

from chinchilla.core.errors import EXIT_AGAIN
from chinchilla.core.terminal import print_error
from chinchilla.train.distributed import PeerError, RankGroup

BEAT_SECONDS = 5.0
STORE_SECONDS = 30.0  # without an answer of the store; then the node of rank 0 counts as dead
GRACE_SECONDS = 10.0  # for the main thread to record the cause and end


class RankWatch:
    """Watches the other ranks while the block runs.

    Args:
        ranks: the ranks of this worker.
        lost_code: exit code of this process if it has to be ended here.
    """

    def __init__(self, ranks: RankGroup, lost_code: int = EXIT_AGAIN) -> None:
        self.ranks, self.lost_code = ranks, lost_code
        self.reason = ""
        self.answered = time.monotonic()  # when the store answered last
        self.ended = threading.Event()

    def __enter__(self) -> None:
        for target in (self._beat, self._judge):
            threading.Thread(target=target, name="ranks", daemon=True).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ended.set()

    def _beat(self) -> None:
        seen: dict[int, tuple[object, float]] = {}
        try:
            observer = self.ranks.observer()
            while not (self.reason or self.ended.is_set()):
                began = time.monotonic()
                self.reason = observer.heartbeat(seen)
                self.answered = time.monotonic()
                self.ended.wait(BEAT_SECONDS)
                if time.monotonic() - began > 3 * BEAT_SECONDS:  # the job was suspended
                    seen.clear()
        except (PeerError, RuntimeError) as error:
            self.reason = str(error)

    def _judge(self) -> None:
        before = time.monotonic()
        while not (self.reason or self.ended.wait(BEAT_SECONDS / 5)):
            now = time.monotonic()
            if now - before > 3 * BEAT_SECONDS:  # the job was suspended
                self.answered = now
            before = now
            if now - self.answered > STORE_SECONDS:
                self.reason = f"rank 0 does not answer ({STORE_SECONDS:g} s)"
        if self.ended.wait(GRACE_SECONDS):
            return
        ranks = self.ranks
        ranks.on_lost()
        print_error(f"rank {ranks.rank} of {ranks.world_size} ends: {self.reason}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.lost_code)
