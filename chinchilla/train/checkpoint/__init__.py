"""Save and load checkpoints, which are either complete or absent.

A checkpoint is written into a temporary folder by a thread while training continues (`save`). Every
file is hashed as it is written, and fsynced, and the folder is renamed into place (`files` has its
contents). Loading (`load`) verifies all hashes and falls back to the previous checkpoint if the newest
one is damaged. Nothing is pickled.

All ranks save and load together. Each rank of the first copy of the weights writes its own shard and
rank 0 commits; an error on one rank is raised on all. A run can be resumed with a different number of
ranks or copies than it was saved with.
"""

from chinchilla.train.checkpoint.files import Checkpoint
from chinchilla.train.checkpoint.load import load_checkpoint
from chinchilla.train.checkpoint.save import CheckpointWriter, save_checkpoint

__all__ = ["Checkpoint", "CheckpointWriter", "load_checkpoint", "save_checkpoint"]
