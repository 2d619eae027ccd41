"""What the children of `tests.zoo.hub.children` have imported before they are forked."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
