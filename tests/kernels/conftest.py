"""The same tests of kernels, interpreted on the CPU and compiled on a GPU where there is one."""

from __future__ import annotations

import pytest

from tests.kernels.kernel_fixtures import Backend, interpreted


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(Backend("cpu", True), marks=interpreted, id="interpret"),
        pytest.param(Backend("cuda", False), marks=pytest.mark.gpu, id="gpu"),
    ],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param
