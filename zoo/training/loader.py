"""Training images by rows: held in memory while they fit, else decoded one batch ahead."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from zoo.data.images import ImageSet
from zoo.networks.preprocess import Preprocess

# Sets of up to this many bytes of decoded pixels are held in memory: CIFAR-10 has 154 MB, ImageNet
# at 224 x 224 pixels 193 GB.
IN_MEMORY = 2**30


class Loader:
    """Labelled training images that are asked for by row.

    A set of at most `IN_MEMORY` bytes is decoded once and stays on the device. Of a larger one the
    rows of each batch are decoded when it is due, in threads, while the batch before is trained on:
    the memory it takes does not depend on the number of images.

    Args:
        images: the set.
        prep: how an image becomes the network's input.
        device: where pixels and labels are handed out.

    Attributes:
        labels: int64 `[N]` on the device.
    """

    def __init__(self, images: ImageSet, prep: Preprocess, device: torch.device) -> None:
        self._images, self._prep, self._device = images, prep, device
        self.labels = torch.from_numpy(images.labels.copy()).to(device)
        held = len(images) * math.prod(prep.input_size) <= IN_MEMORY
        self._held = images.batch(slice(None), prep).to(device) if held else None

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the images of these rows, int64 `[B]`, as uint8 `[B, C, H, W]`."""
        if self._held is not None:
            return self._held[rows.to(self._device)]
        return self._images.batch(rows.numpy(), self._prep).to(self._device)

    def batches(self, rows: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield pixels uint8 `[B, C, H, W]` and labels int64 `[B]` for each `[B]` of `rows`."""
        if self._held is not None:
            for part in rows:
                yield self.pixels(part), self.labels[part.to(self._device)]
            return
        with ThreadPoolExecutor(1) as reader:
            coming: tuple[Tensor, Future[Tensor]] | None = None
            for part in rows:
                due, coming = coming, (part, reader.submit(self.pixels, part))
                if due is not None:
                    yield due[1].result(), self.labels[due[0].to(self._device)]
            if coming is not None:
                yield coming[1].result(), self.labels[coming[0].to(self._device)]
