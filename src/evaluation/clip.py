"""CLIP (Radford et al., arXiv:2103.00020) as a feature network, by the package open_clip where that is installed."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from src.common.cli import UserError
from src.evaluation.features import CPU_BATCH_SIZE, cached_by_content


class Clip:
    """A CLIP model of open_clip, given as MODEL:WEIGHTS, the weights a file or one of open_clip's names (which it downloads).

    `sha256` is the hash of parameters and preprocessing. Raises UserError where open_clip is not installed or gives no such
    model.
    """

    def __init__(self, given: str, device: str | torch.device = "cpu"):
        try:
            import open_clip
        except ImportError as error:
            raise UserError("--clip needs the package open_clip: pip install open_clip_torch") from error
        name, _, weights = given.partition(":")
        if not weights:
            raise UserError(f"--clip {given}: expected MODEL:WEIGHTS, for example ViT-B-32:openai or ViT-B-32:/path/to/file.pt")
        try:
            model, _, self.preprocess = open_clip.create_model_and_transforms(name, pretrained=weights)
            self.tokenizer = open_clip.get_tokenizer(name)
        except (RuntimeError, ValueError, KeyError, AssertionError, OSError, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"--clip {given}: open_clip gave no model ({reason})") from error
        self.model, self.device = model.eval().requires_grad_(False).to(device), torch.device(device)
        self.source, self.version = given, open_clip.__version__
        digest = hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", repr(self.preprocess)).encode())  # without addresses in memory
        for key, value in sorted(model.state_dict().items()):
            digest.update(f"{key} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy())
        self.sha256 = digest.hexdigest()

    @torch.inference_mode()
    def features(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """The image embeddings, not normalised, of uint8 (N, 3, H, W): float32 (N, D), kept in the cache."""
        step = min(batch_size, CPU_BATCH_SIZE) if self.device.type == "cpu" else batch_size

        def extract(mine: np.ndarray, _: Path) -> np.ndarray:
            features = []
            for start in range(0, len(mine), step):
                batch = [self.preprocess(Image.fromarray(image.transpose(1, 2, 0))) for image in mine[start : start + step]]
                features.append(self.model.encode_image(torch.stack(batch).to(self.device)).float().cpu().numpy())
            return np.concatenate(features)

        return cached_by_content(images, f"clip {self.sha256}", extract)

    @torch.inference_mode()
    def text(self, prompt: str) -> np.ndarray:
        """The embedding of a text: float32 (D,)."""
        return self.model.encode_text(self.tokenizer([prompt]).to(self.device)).float().cpu().numpy()[0]


def clip_scores(images: np.ndarray, text: np.ndarray) -> np.ndarray:
    """100 max(cos, 0) of image embeddings (N, D) and a text's (D,): (N,), from 0 to 100 (Hessel et al., arXiv:2104.08718, who
    multiply by 2.5 instead of 100). Raises ValueError for different D."""
    if images.ndim != 2 or text.shape != images.shape[1:]:
        raise ValueError(f"expected embeddings (N, D) and (D,), got {images.shape} and {text.shape}")
    cosine = images.astype(np.float64) @ text / (np.linalg.norm(images, axis=1) * np.linalg.norm(text))
    return 100 * cosine.clip(min=0)
