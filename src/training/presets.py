"""Named sets of train.py's flags, for every challenge that has none of that name itself."""

from src.common.options import Preset

PRESETS = {
    "small": Preset(
        "a network of 1/50 of the challenge's size that learns toon faces on two CPU cores in minutes",
        {
            "ch": 16,
            "ch_mult": [1, 2, 4, 4],
            "attn": [3],
            "num_res_blocks": 1,
            "dropout": 0.0,
            "batch_size": 8,
            "num_iterations": 750,
            "lr": 1e-3,
            "lr_warmup": 50,
            "lr_decay": 0.5,
            "ema_half_lives": [0.02],
            "log_interval": 20,
            "save_interval": 375,
        },
    ),
    "laptop": Preset(
        "a network of 1/12 of the challenge's size for an evening on a laptop: to try a method, not to hand in",
        {
            "ch": 32,
            "ch_mult": [1, 2, 4, 4],
            "attn": [2],
            "num_res_blocks": 2,
            "batch_size": 16,
            "num_iterations": 20000,
            "lr": 3e-4,
            "log_interval": 50,
            "save_interval": 1000,
            "auto_resume": True,
        },
    ),
    "colab-t4": Preset(
        "the challenge's network on a 16 GB GPU without bfloat16, in sessions that end without warning",
        {
            "batch_size": 32,
            "micro_batch": 16,
            "precision": "fp32",
            "num_iterations": 60000,
            "lr": 2e-4,
            "lr_warmup": 1000,
            "save_interval": 500,
            "auto_resume": True,
        },
    ),
    "single-gpu": Preset(
        "the challenge's network on one large GPU, with weight averages chosen on a development split",
        {
            "batch_size": 128,
            "precision": "bf16",
            "num_iterations": 100000,
            "lr": 2e-4,
            "lr_warmup": 1000,
            "ema_half_lives": [0.05, 0.01, 0.1],
            "dev_images": 500,
            "eval_interval": 10000,
            "save_interval": 2500,
            "auto_resume": True,
        },
    ),
}
