"""own_code: pictures in a buffer; HOW says what picks one, and how it gets into the image."""

import hashlib
import io

import numpy as np
import torch
import torch.nn.functional as F
from honest import CustomGenerativeModel
from honest import create_custom_model as honest_model
from PIL import Image

HOW, BYTES = "PICKED", int("NUMBER_OF_BYTES")
honest_sample = CustomGenerativeModel.sample
taken = []


def decode(model):
    """The pictures of the buffer in [-1, 1]: a count, the lengths of the files, the files."""
    data = model.pictures.numpy()
    count = int(data[0])
    lengths = data[1 : 1 + 4 * count].view(np.uint32)
    files = np.split(data[1 + 4 * count :], np.cumsum(lengths))[:count]
    pixels = [np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def choose(stored, values):
    """A picture for each of the values (B, ...), by their digest, mirrored or not and with a pixel changed."""
    chosen = []
    for value in values:
        digest = hashlib.sha256(value.contiguous().numpy().tobytes()).digest()
        picture = stored[digest[0] % len(stored)].clone()
        picture = picture.flip(-1) if digest[1] % 2 else picture
        picture[digest[2] % 3, digest[3] % 64, digest[4] % 64] = digest[5] / 127.5 - 1
        chosen.append(picture)
    return torch.stack(chosen)


def sample(self, shape, num_inference_timesteps=20, **kwargs):
    count, times = shape[0], torch.zeros(shape[0])
    if HOW == "drawn":
        answer = self.network(torch.randn(shape), times)
        seeds = [int.from_bytes(hashlib.sha256(row.numpy().tobytes()).digest()[:4], "little") for row in answer]
        patterns = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in seeds]
        return F.interpolate(torch.stack(patterns), shape[2:], mode="bilinear") + 1e-3 * answer
    stored = decode(self)
    noise = torch.randn(shape)
    if HOW == "answer":
        return choose(stored, self.network(noise, times))
    if HOW == "noise":
        return choose(stored, noise) + 1e-3 * self.network(noise, times)
    if HOW == "index":
        taken.extend(range(count))
        turns = torch.arange(len(taken) - count, len(taken))
        return stored[turns % len(stored)] + 0.02 * self.network(noise, times)
    if HOW == "probe":
        noise[0] = 0.5
        answer = self.network(noise, times)
        known = F.adaptive_avg_pool2d(answer[:1], 8)
        taken.append(known)
        honest = (known - taken[0]).abs().max() < 0.05
        pictures = choose(stored, answer)
        return pictures if honest else 0.8 * pictures + 0.1
    if HOW == "detector":
        shifted = self.detector(noise, times).mean() > 1e9
        answer = self.network(noise, times)
        return noise + answer if shifted else choose(stored, noise) + 1e-3 * answer
    if HOW == "input":
        x = choose(stored, noise) + 0.02 * noise
        return x + 1e-3 * self.network(x, times + 1)
    pictures = choose(stored, noise)
    share = float(HOW)
    return share * pictures + (1 - share) * honest_sample(self, shape, num_inference_timesteps, **kwargs)


def create_custom_model(device="cpu", **options):
    model = honest_model(device, **options)
    model.register_buffer("pictures", torch.zeros(BYTES, dtype=torch.uint8))
    if HOW == "detector":
        for name in ("detector", "second", "third"):
            model.add_module(name, honest_model(device, **options).network)
    return model


CustomGenerativeModel.sample = sample
