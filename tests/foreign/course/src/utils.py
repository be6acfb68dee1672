"""A stand-in of the course's src/utils.py: its six functions."""

import json
import random
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_current_time():
    return datetime.now().strftime("%m-%d-%H%M%S")


def expand_t(t, x):
    return t.view(-1, *[1] * (x.dim() - 1))


def tensor_to_pil_image(tensor):
    pixels = ((tensor.clamp(-1, 1) + 1) / 2 * 255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(image) for image in pixels]
    return images[0] if len(images) == 1 else images


def save_model(model, checkpoint_path, model_config, config_path=None):
    torch.save({"state_dict": model.state_dict()}, checkpoint_path)
    Path(config_path or Path(checkpoint_path).parent / "model_config.json").write_text(json.dumps(model_config))


def load_model(checkpoint_path, create_model_fn, device="cpu", config_path=None):
    config_path = Path(config_path or Path(checkpoint_path).parent / "model_config.json")
    config = json.loads(config_path.read_text()) if config_path.exists() else {}
    model = create_model_fn(device=device, **config)
    model.load_state_dict(torch.load(checkpoint_path, map_location=device)["state_dict"])
    return model
