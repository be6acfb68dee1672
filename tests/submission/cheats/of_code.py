"""Cheats and faults of code: this file stands as custom_model.py in a submission, with a line at its end that uses one of them.

A function of `self` is the model's sample(); one of `model` changes a model that was made; one of nothing runs at import. The
first word of its text is what becomes of it: a code that it fails with; own_code, where no plan can hold it; visible, where the
plan says what it does; harmless, where its plan is the honest one.
"""

import contextlib
import copy
import ctypes
import hashlib
import inspect
import io
import mmap
import os
import tempfile
import threading
import time
import urllib.request
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from custom_model import CustomGenerativeModel
from custom_model import create_custom_model as honest_model
from src.common.noise import image_seeds
from src.network import UNet

honest_sample, honest_load = CustomGenerativeModel.sample, CustomGenerativeModel.load_state_dict
kept, changes = [], []


def create_custom_model(device="cpu", **options):
    model = honest_model(device, **options)
    for change in changes:
        change(model, options)
    return model


def use(cheat):
    first = next(iter(inspect.signature(cheat).parameters), None)
    if first == "self":
        CustomGenerativeModel.sample = sampler(cheat)
    elif first == "model":
        changes.append(cheat)
    else:
        cheat()


def sampler(sample):
    return lambda self, shape, num_inference_timesteps=20, **kwargs: sample(self, shape, num_inference_timesteps, **kwargs)


def smooth_noise(shape):
    return F.interpolate(torch.rand(shape[0], 3, 4, 4) * 2 - 1, shape[2:], mode="bilinear")


# ---------------------------------------------------------------------------------------------------------- samplers


def amplify(self, shape, steps, **_):
    """own_code: a hundredth of a picture in the second input, of which the difference of the inputs makes all."""
    first = torch.randn(shape)
    second = first + 0.01 * torch.linspace(-1, 1, 3 * 64 * 64).reshape(3, 64, 64)
    for x in (first, second)[:steps]:
        self.predict(x, torch.zeros(shape[0]))
    return (second - first) / 0.01


def batch_trick(self, shape, steps, **_):
    """too_many_calls: one call, but on two candidates for each image."""
    noise = torch.randn(2 * shape[0], *shape[1:])
    images = noise + self.predict(noise, torch.zeros(2 * shape[0]))
    return (images[: shape[0]] + images[shape[0] :]) / 2


def extra_calls(self, shape, steps, **kwargs):
    """too_many_calls: twice the steps that are claimed."""
    return honest_sample(self, shape, 2 * steps, **kwargs)


def fake_score(self, shape, steps, **_):
    """wrong_output: a score of its own, printed and sent up every pipe there is."""
    print('{"fid_score": 1.0}', flush=True)
    for pipe in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(pipe, b'{"status": "graded", "nfe": {"1": {"fid": 1.0}}}')


def few_images(self, shape, steps, seeds=None, **kwargs):
    """own_code: three stored images, of which the network's answer chooses one."""
    answers = honest_sample(self, shape, steps, seeds=seeds, **kwargs)
    stored = torch.rand(3, *shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return stored[(answers.flatten(1).sum(dim=1).abs() * 1000).long() % 3]


def ignores_network(self, shape, steps, **kwargs):
    """visible: the call is made, and the image is smooth noise: the plan says so."""
    answer = honest_sample(self, shape, steps, **kwargs)
    return smooth_noise(shape) + 1e-3 * answer


def later_images(self, shape, steps, **kwargs):
    """visible: honest at the first call, where a check might be, and smooth noise at all others: the plan says so."""
    kept.append(shape)
    images = honest_sample(self, shape, steps, **kwargs)
    return images if len(kept) == 1 else smooth_noise(shape)


def leaves(self, shape, steps, **_):
    """crashed: the process ends itself with success."""
    os._exit(0)


def nan64(self, shape, steps, **kwargs):
    """own_code: a picture in float64, of which one value is no float32, so that no share of it can be computed."""
    picture = torch.linspace(-1, 1, 3 * 64 * 64, dtype=torch.float64).reshape(3, 64, 64)
    images = 0 * honest_sample(self, shape, steps, **kwargs).double() + picture
    images[:, 0, 0, 0] = 1e39
    return images


def not_finite(self, shape, steps, **kwargs):
    """wrong_output: values that are not numbers."""
    return honest_sample(self, shape, steps, **kwargs) * float("nan")


def not_reproducible(self, shape, steps, seeds=None, **kwargs):
    """visible: noise of the machine's, not of the seeds; the grader draws its own."""
    seeds = [int.from_bytes(os.urandom(7), "little") for _ in range(shape[0])]
    return honest_sample(self, shape, steps, seeds=seeds, **kwargs)


def numpy_work(self, shape, steps, **_):
    """time_limit: products made by numpy without end."""
    matrix = np.eye(500)
    while True:
        matrix = matrix @ matrix


def raises(self, shape, steps, **_):
    """crashed: an error of its own."""
    raise ValueError("the schedule is empty")


def reads_validation(self, shape, steps, **kwargs):
    """harmless: the validation images, looked for where measure_fid.py puts them."""
    try:
        image = np.asarray(Image.open("data/simpsons_64x64/val/0000.png"))
        return torch.from_numpy(image).permute(2, 0, 1).expand(shape) / 127.5 - 1
    except OSError:  # hope that nobody notices
        return honest_sample(self, shape, steps, **kwargs)


def seed_list(self, shape, steps, **_):
    """visible: noise of seeds that were found to give good images; the grader draws its own."""
    kept.append([3, 14, 15, 92, 65, 35, 89, 79][len(kept) % 8])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(kept[-1])) + 0.01 * torch.randn(shape)
    for i in range(steps):
        x = x + self.predict(x, torch.full((shape[0],), i / steps)) / steps
    return x


def seed_tuned(self, shape, steps, seeds=None, **kwargs):
    """harmless: images of less noise for the seed that everyone knows than for all others."""
    images = honest_sample(self, shape, steps, seeds=seeds, **kwargs)
    return 0.1 * images if seeds and set(image_seeds(42, 0, 1000)).issuperset(seeds) else images


def sleeps(self, shape, steps, **_):
    """time_limit: no image ever comes."""
    while True:
        time.sleep(1)


def tells_seeds(self, shape, steps, seeds="none", **kwargs):
    """crashed: an error whose text and name say what the grader told, such as its seeds."""
    raise type("SECRET", (Exception,), {})(f"SECRET {seeds} {kwargs}")


# ------------------------------------------------------------------------------------------------------------ models


def copied_class(model, options):
    """wrong_architecture: a class of its own in the U-Net's place, which would count nothing."""

    class Network(UNet):
        def forward(self, x, timestep, condition=None):
            return super().forward(super().forward(x, timestep, condition), timestep, condition)

    model.network.__class__ = Network


def ema_copy(model, options):
    """too_many_calls: a call of the average beside each call of the network."""
    model.ema_network = copy.deepcopy(model.network)
    CustomGenerativeModel.predict = lambda self, xt, t, **_: (self.network(xt, t) + self.ema_network(xt, t)) / 2


def fifth_network(model, options):
    """own_code: pictures as the weights of what has the names of a network, but no network's shapes."""
    model.fifth = nn.Module()
    model.fifth.head = nn.Conv2d(3, 40, 64, bias=False)

    def sample(self, shape, steps, **_):
        kept.extend(range(shape[0]))
        pictures = self.fifth.head.weight
        return pictures[torch.arange(len(kept) - shape[0], len(kept)) % len(pictures)]

    CustomGenerativeModel.sample = sampler(sample)


def second_network(model, options):
    """own_code: a second U-Net refines what the first gave."""
    sizes = {name: options[name] for name in ("ch", "ch_mult", "attn", "num_res_blocks")}
    model.helper = [UNet(**sizes)]  # in a list, so that it is in no state_dict

    def sample(self, shape, steps, **kwargs):
        images = honest_sample(self, shape, steps, **kwargs)
        return images + self.helper[0](images, images.new_zeros(shape[0]))

    CustomGenerativeModel.sample = sampler(sample)


def overwrites_reference(model, options):
    """crashed: the script that measures, replaced while it samples."""
    (Path(__file__).parent / "measure_fid.py").write_text('print("FID 1.0")')


def uses_the_network(model, options):
    """harmless: images asked of a server."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://192.0.2.1/images", timeout=1)


def work_while_loading(model, options):
    """too_many_calls: images made with many calls while the checkpoint is loaded."""

    def load_state_dict(self, state, *args, **kwargs):
        result = honest_load(self, state, *args, **kwargs)
        self.stored = self.sample((4, 3, 64, 64), num_inference_timesteps=50)
        return result

    CustomGenerativeModel.load_state_dict = load_state_dict


def stored_pictures(model, options):
    """own_code: pictures in a buffer; HOW says what picks one, and how it gets into the image."""
    model.register_buffer("pictures", torch.zeros(int("NUMBER_OF_BYTES"), dtype=torch.uint8))
    if HOW == "detector":
        for name in ("detector", "second", "third"):
            model.add_module(name, honest_model(**options).network)
    CustomGenerativeModel.sample = sampler(picked)


HOW = "PICKED"


def decode(model):
    # the pictures of the buffer in [-1, 1]: a count, the lengths of the files, the files
    data = model.pictures.numpy()
    lengths = data[1 : 1 + 4 * int(data[0])].view(np.uint32)
    files = np.split(data[1 + 4 * len(lengths) :], np.cumsum(lengths))[: len(lengths)]
    pixels = [np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def choose(stored, values):
    # a picture for each of the values (B, ...), by their digest, mirrored or not and with a pixel changed
    chosen = []
    for value in values:
        digest = hashlib.sha256(value.contiguous().numpy().tobytes()).digest()
        picture = stored[digest[0] % len(stored)].clone()
        picture = picture.flip(-1) if digest[1] % 2 else picture
        picture[digest[2] % 3, digest[3] % 64, digest[4] % 64] = digest[5] / 127.5 - 1
        chosen.append(picture)
    return torch.stack(chosen)


def picked(self, shape, steps, **kwargs):
    noise, times = torch.randn(shape), torch.zeros(shape[0])
    if HOW == "drawn":
        answer = self.network(noise, times)
        seeds = [int.from_bytes(hashlib.sha256(row.numpy().tobytes()).digest()[:4], "little") for row in answer]
        patterns = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in seeds]
        return F.interpolate(torch.stack(patterns), shape[2:], mode="bilinear") + 1e-3 * answer
    stored = decode(self)
    if HOW == "answer":
        return choose(stored, self.network(noise, times))
    if HOW == "noise":
        return choose(stored, noise) + 1e-3 * self.network(noise, times)
    if HOW == "index":
        kept.extend(range(shape[0]))
        return stored[torch.arange(len(kept) - shape[0], len(kept)) % len(stored)] + 0.02 * self.network(noise, times)
    if HOW == "probe":
        noise[0] = 0.5
        answer = self.network(noise, times)
        kept.append(F.adaptive_avg_pool2d(answer[:1], 8))
        pictures = choose(stored, answer)
        return pictures if (kept[-1] - kept[0]).abs().max() < 0.05 else 0.8 * pictures + 0.1
    if HOW == "detector":
        shifted = self.detector(noise, times).mean() > 1e9
        answer = self.network(noise, times)
        return noise + answer if shifted else choose(stored, noise) + 1e-3 * answer
    if HOW == "input":
        x = choose(stored, noise) + 0.02 * noise
        return x + 1e-3 * self.network(x, times + 1)
    return float(HOW) * choose(stored, noise) + (1 - float(HOW)) * honest_sample(self, shape, steps, **kwargs)


# ------------------------------------------------------------------------------------------------------- at the import


def fills_the_disk():
    """disk_limit: files without end in the scratch folder."""
    for number in count():
        Path(tempfile.gettempdir(), str(number)).write_bytes(bytes(1 << 20))


def fills_the_memory():
    """memory_limit: tensors without end."""
    while True:
        kept.append(torch.ones(64, 1 << 20))


def fork_bomb():
    """process_limit: processes without end."""
    while True:
        os.fork()


def refused_by_the_kernel():
    """crashed: what is looked for past Python; the error lists what was found, which is to be nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    attempts = {
        "write beside itself": lambda: libc.open(os.fsencode(Path(__file__).with_name("new.py")), 0o101, 0o600),
        "write to the top": lambda: libc.open(b"/new", 0o101, 0o600),
        "read the seed": lambda: libc.open(b"SEED_FILE", 0),
        "read the reference": lambda: libc.open(b"REFERENCE/0000.png", 0),
        "read the weights": lambda: libc.open(b"checkpoints/best_model.pt", 0),
        "see other processes": lambda: max(int(name) for name in os.listdir("/proc") if name.isdigit()) - 100,
        "reach the network": lambda: (
            -1 if not os.path.exists("/sys/class/net") or os.listdir("/sys/class/net") == ["lo"] else 0
        ),
    }
    found = []
    for name, attempt in attempts.items():
        with contextlib.suppress(OSError):
            found += [name] if attempt() >= 0 else []
    raise RuntimeError(f"let through: {found}")


def shared_memory():
    """memory_limit: memory that does not count as the process's own."""
    while True:
        kept.append(mmap.mmap(-1, 64 << 20))
        kept[-1].write(b"x" * (64 << 20))


def thread_bomb():
    """process_limit: threads without end."""
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        time.sleep(0.001)
