"""A training run for one of several `torch.distributed` processes; the first writes the weights it ends with."""

import os
import sys
from pathlib import Path

import torch

from tests.train.small_runs import train_small

if __name__ == "__main__":
    output, weights = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    policy, _ = train_small(output, batch_size=5, tokens_per_batch=60, max_steps=3)
    if os.environ["RANK"] == "0":
        torch.save(policy.state_dict(), weights)
