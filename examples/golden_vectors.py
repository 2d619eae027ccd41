"""Read the golden vectors of `zoo export --format golden`, for a test bench: no zoo, no torch.

python golden_vectors.py vectors.npz conv1    # hexadecimal lines, one a timestep, for $readmemh
"""

import json
import sys

import numpy as np


def read(path, layer):
    """Yield (image, timestep, spikes [C, H, W], potential [C, H, W]) of one layer, in order."""
    with np.load(path, allow_pickle=False) as found:
        spikes, potential = found[f"spikes/{layer}"], found[f"potential/{layer}"]
    for image in range(spikes.shape[1]):
        for step in range(spikes.shape[0]):
            yield image, step, spikes[step, image], potential[step, image]


if __name__ == "__main__":
    path, layer = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
    with np.load(path, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        if f"spikes/{layer}" not in found:
            sys.exit(f"no layer {layer}: {', '.join(n[7:] for n in found if n[:7] == 'spikes/')}")
    print(f"// {about['arch']}, weights sha256 {about['weights_sha256']}, layer {layer}")
    for image, step, spikes, potential in read(path, layer):
        bits = np.packbits(spikes.ravel() != 0).tobytes().hex()  # channel by channel, row by row
        print(f"{bits}  // image {image}, timestep {step}, potentials {potential.ravel()[:4]}...")
