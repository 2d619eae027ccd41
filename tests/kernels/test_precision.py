"""Whole float32 beside both of torch's interfaces to TF32; each case in a process of its own.

The switches are those of a GPU, and can be set and read without one.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from zoo.kernels.precision import full_float32

backends = torch.backends
{users}

def switches():
    return (
        backends.cudnn.conv.fp32_precision,
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.deterministic,
    )

before = switches()
for _ in range(2):
    try:
        with full_float32():
            assert switches() == ("ieee", "ieee", True), switches()
            raise KeyError
    except KeyError:
        pass
    assert switches() == before, (before, switches())
{after}
"""
OLD = "backends.cudnn.allow_tf32 = {0}; backends.cuda.matmul.allow_tf32 = {0}"


@pytest.mark.parametrize(
    ("users", "after"),
    [
        ("", "assert backends.cudnn.allow_tf32"),
        (OLD.format(True), "assert backends.cudnn.allow_tf32 and backends.cuda.matmul.allow_tf32"),
        (OLD.format(False), "assert not backends.cudnn.allow_tf32"),
        ("torch.set_float32_matmul_precision('high')", ""),
        (
            "backends.fp32_precision = 'tf32'",
            "backends.fp32_precision = 'ieee'; assert switches()[1] == 'ieee'",
        ),
        ("backends.cudnn.conv.fp32_precision = 'ieee'", ""),
    ],
    ids=["default", "allow", "forbid", "high", "all-tf32", "conv-ieee"],
)
def test_both_interfaces_are_left_as_they_were(users, after):
    program = PROGRAM.format(users=users, after=after)
    subprocess.run([sys.executable, "-c", program], check=True)
