"""The course's faces at 32x32 with a network of 1.1 million parameters: a laptop is enough to compete and to compare."""

from functools import partial

from src.challenges.shared.challenge import register
from src.challenges.shared.faces import DEFAULT_ROOT, load_faces
from src.challenges.shared.images import ImageChallenge
from src.challenges.shared.unet import ClassUNet

SIMPSONS32 = register(
    ImageChallenge(
        name="simpsons32",
        about="Simpsons faces at 32x32 and a small U-Net, for a laptop",
        shape=(3, 32, 32),
        load=partial(load_faces, size=32),
        default_root=DEFAULT_ROOT,
        nfe=(1, 2, 4),
        num_samples=1000,
        network=ClassUNet,
        network_defaults={"ch": 32, "ch_mult": (1, 2, 2), "attn": (1,), "num_res_blocks": 1, "dropout": 0.0},
        training={
            "batch_size": 64,
            "num_iterations": 2542,
            "lr": 5e-4,
            "lr_warmup": 200,
            "lr_decay": 0.3,
            "ema_half_lives": [0.03],
            "log_interval": 50,
            "save_interval": 300,
        },
    )
)
