"""The course's challenge: 8,877 Simpsons faces at 64x64, the U-Net of 58.8 million parameters, 1, 2 and 4 network calls."""

from functools import partial

from src.challenges.shared.challenge import Published, register
from src.challenges.shared.faces import DEFAULT_ROOT, load_faces
from src.challenges.shared.images import ImageChallenge

SIMPSONS = register(
    ImageChallenge(
        name="simpsons",
        about="Simpsons faces at 64x64, the course's challenge",
        shape=(3, 64, 64),
        load=partial(load_faces, size=64),
        default_root=DEFAULT_ROOT,
        nfe=(1, 2, 4),
        num_samples=1000,
        published=(  # FID clean-fid, 1,000 vs 1,000 images
            Published("the course's baseline", "rectified flow, published", {1: 293.4, 2: 233.8, 4: 114.3}),
            Published("best public entry", "published", {1: 90.3, 2: 41.5, 4: 33.5}),
            Published("real images", "1,000 of the training images: the floor", {1: 18.2, 2: 18.2, 4: 18.2}),
        ),
    )
)
