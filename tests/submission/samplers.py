"""Samplers as people write them, on a network net(x, t): honest ones, and ones that a plan refuses, each with the rule.

Each takes (net, shape, steps) and gives images. What they have in common is `flow`.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

Tensor, Net = torch.Tensor, Callable[..., torch.Tensor]
YCBCR = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344, -0.714], [1.0, 1.772, 0.0]])
PICTURE = torch.linspace(-1, 1, 3 * 16 * 16).reshape(3, 16, 16)
ALPHA = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)


def same(x: Tensor, *_: object) -> Tensor:
    return x


def flow(net: Net, shape: tuple, steps: int, inside: Callable = same, after: Callable = same) -> Tensor:
    x, times = torch.randn(shape), torch.linspace(1, 0, steps + 1)
    for i in range(steps):
        x = x - (times[i] - times[i + 1]) * net(x, times[i].expand(shape[0]) * 1000)
        x = inside(x, i)
    return after(x)


def inside(change: Callable) -> Callable:
    return lambda net, shape, steps: flow(net, shape, steps, inside=change)


def after(change: Callable) -> Callable:
    return lambda net, shape, steps: flow(net, shape, steps, after=change)


# ------------------------------------------------------------------------------------------------------------- honest


def dynamic_thresholding(x: Tensor, _: int) -> Tensor:
    bound = torch.quantile(x.flatten(1).abs(), 0.95, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x.clamp(-bound, bound) / bound


def heun(net: Net, shape: tuple, steps: int) -> Tensor:
    x, times = torch.randn(shape), torch.linspace(1, 0, steps + 1)
    for t, t_next in zip(times[:-1], times[1:]):  # noqa: B905, RUF007
        first = net(x, t.expand(shape[0]))
        ahead = x + (t_next - t) * first
        second = net(ahead, t_next.expand(shape[0])) if t_next > 0 else first
        x = x + (t_next - t) * (first + second) / 2
    return x


def ddim(net: Net, shape: tuple, steps: int, eta: float = 0.0) -> Tensor:
    """By tables that are indexed by time, clipped inside, with fresh noise where eta is above 0."""
    x, grid = torch.randn(*shape), torch.linspace(999, 0, steps + 1).long()
    for i in range(steps):
        a, b = ALPHA[grid[i]], ALPHA[grid[i + 1]]
        noise = net(x, torch.full((shape[0],), int(grid[i])))
        data = ((x - (1 - a).sqrt() * noise) / a.sqrt()).clamp_(-1, 1)
        fresh = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        x = b.sqrt() * data + (1 - b - fresh**2).clamp(min=0).sqrt() * noise + fresh * torch.randn_like(x)
    return x


def guided(net: Net, shape: tuple, steps: int) -> Tensor:
    x = torch.randn(shape)
    for i in range(steps):
        t = torch.full((2 * shape[0],), 1 - i / steps)
        both = net(torch.cat([x, x]), t)
        with_class, without = both.chunk(2)
        x = x - (without + 2.5 * (with_class - without)) / steps
    return x


def mirrored_calls(net: Net, shape: tuple, steps: int) -> Tensor:
    x = torch.randn(shape)
    for _ in range(steps):
        one, other = net(torch.cat([x, x.flip(-1)]), torch.ones(2 * shape[0])).chunk(2)
        x = x - (one + other.flip(-1)) / (2 * steps)
    return x


def out_i(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape)
    for i in range(len(x)):
        out[i] = x[i] * 0.5
    return out


def out_all(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:] = x
    return out


def out_channels(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 0] = x[:, 2]
    out[:, 1:] = x[:, :2] * 2
    return out


def one_by_one(net: Net, shape: tuple, steps: int) -> Tensor:
    return torch.cat([flow(net, (1, *shape[1:]), steps) for _ in range(shape[0])])


def asks(x: Tensor, _: int) -> Tensor:
    assert torch.isfinite(x).all()
    if torch.isnan(x).any():
        raise ValueError("no numbers")
    return x.nan_to_num() if x.abs().max() > 1e6 else x


def prints(x: Tensor, i: int) -> Tensor:
    text = f"step {i}: mean {x.mean().item():.3f}, deviation {x.std():.3f} {x.min()}"
    assert text
    return x


def masked(x: Tensor, _: int) -> Tensor:
    x = x.clone()
    x[x > 1] = 1.0
    return x


def by_numpy(net: Net, shape: tuple, steps: int) -> Tensor:
    sigmas = np.append(np.linspace(80.0, 0.5, steps), 0.0).astype(np.float32)
    x = torch.from_numpy(np.random.randn(*shape).astype(np.float32)) * sigmas[0]
    for now, then in zip(sigmas[:-1], sigmas[1:]):  # noqa: B905, RUF007
        x = x + (then - now) * (x - net(x, torch.full((shape[0],), float(now)))) / float(now)
    return x


def through_numpy(x: Tensor, _: int) -> Tensor:
    return torch.from_numpy(np.clip(x.numpy() * 0.9, -1, 1))


def half_autocast(net: Net, shape: tuple, steps: int) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        x = flow(net, shape, steps, after=lambda x: torch.einsum("bchw,dc->bdhw", x, YCBCR))
    return x.float()


def bfloat16_autocast(net: Net, shape: tuple, steps: int) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return flow(net, shape, steps).float()


@torch.inference_mode()
def in_inference_mode(net: Net, shape: tuple, steps: int) -> Tensor:
    return flow(net, shape, steps, dynamic_thresholding, lambda x: torch.einsum("bchw,dc->bdhw", x, YCBCR))


def multistep(net: Net, shape: tuple, steps: int) -> Tensor:
    x, before = torch.randn(shape), None
    for i in range(steps):
        data = net(x, torch.ones(shape[0]) * (1 - i / steps))
        x = 0.5 * x + math.expm1(0.3) * (data if before is None else 1.5 * data - 0.5 * before)
        before = data
    return x


def filtered(x: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    return x + 0.1 * (x - F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=3))


HONEST = {
    "a flow": flow,
    "an image clipped at the end": after(lambda x: x.clamp(-1, 1)),
    "the mean with its mirrored twin": after(lambda x: (x + x.flip(-1)) / 2),
    "a call on the mirrored batch too": mirrored_calls,
    "YCbCr by einsum": after(lambda x: torch.einsum("bchw,dc->bdhw", x, YCBCR)),
    "YCbCr by a product": after(lambda x: (x.permute(0, 2, 3, 1) @ YCBCR.T).permute(0, 3, 1, 2)),
    "YCbCr by a convolution": after(lambda x: F.conv2d(x, YCBCR[:, :, None, None], torch.tensor([0.1, 0.2, 0.3]))),
    "channels of their own scale": after(lambda x: x * torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)),
    "channels in another order": after(lambda x: x[:, [2, 1, 0]]),
    "dynamic thresholding": inside(dynamic_thresholding),
    "clipping inside a step": inside(lambda x, _: x.clamp(-1.5, 1.5)),
    "writes in place": inside(lambda x, _: x.clone().mul_(0.9).add_(0.1).clamp_(-1, 1)),
    "a deviation of each image": inside(lambda x, _: x / x.std(dim=(1, 2, 3), keepdim=True)),
    "Heun": heun,
    "DDIM": ddim,
    "ancestral noise": lambda net, shape, steps: ddim(net, shape, steps, eta=1.0),
    "two steps at once": multistep,
    "guidance by cat and chunk": guided,
    "out[i] = x": after(out_i),
    "x[i] and torch.stack": after(lambda x: torch.stack([image.clamp(-1, 1) for image in x])),
    "torch.stack(list(x))": after(lambda x: torch.stack(list(x))),
    "torch.cat of parts": after(lambda x: torch.cat(x.split(1)) * 0.9),
    "out[:] = x": after(out_all),
    "out[:, 0] = x": after(out_channels),
    "images one by one": one_by_one,
    "if torch.isnan": inside(asks),
    "prints": inside(prints),
    "x[x > 1] = 1": inside(masked),
    "where": inside(lambda x, _: torch.where(x.abs() > 1, x.sign(), x)),
    "noise of NumPy": by_numpy,
    "noise of a generator": lambda net, shape, _: net(
        torch.randn(shape, generator=torch.Generator().manual_seed(3)), torch.zeros(shape[0])
    ),
    "a step through NumPy": inside(through_numpy),
    "float16 autocast": half_autocast,
    "bfloat16 autocast": bfloat16_autocast,
    "inference mode": in_inference_mode,
    "torch.func": inside(lambda x, _: torch.func.vmap(lambda image: image / image.std())(x)),
    "flattened": inside(lambda x, _: x.view(len(x), -1).view_as(x)),
    "bytes": after(lambda x: (x * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).float() / 127.5 - 1),
    "a small filter": after(filtered),
    "half the size and back": after(lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")),
    "the mean of a stack with the mirrored twin": after(lambda x: torch.stack([x, x.flip(-1)]).mean(0)),
    "two quantiles at once": inside(
        lambda x, _: x / torch.quantile(x.flatten(1), torch.tensor([0.1, 0.9]), 1)[1].view(-1, 1, 1, 1)
    ),
    "the mean of all states": lambda net, shape, steps: torch.stack([flow(net, shape, steps) for _ in range(2)]).mean(0),
    "torch.add(out=)": inside(lambda x, _: torch.add(x, x, out=torch.empty(x.shape))),
}


# ------------------------------------------------------------------------------------------------------------- refused


def painted(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 2:5, 3:9] = 0.3
    return x


def thumbnail(x: Tensor) -> Tensor:
    """A 4x4 picture made of an image's mean and 16 numbers."""
    small = (x.mean((1, 2, 3))[:, None] @ torch.linspace(-1, 1, 16)[None]).view(-1, 1, 4, 4)
    return x + small.repeat_interleave(4, 2).repeat_interleave(4, 3)


def channel_by_channel(x: Tensor) -> Tensor:
    """The same, each of its numbers written to a place of its own."""
    small = torch.zeros(len(x), 16)
    for i in range(16):
        small[:, i] = x.mean((1, 2, 3)) * 0 + i / 8 - 1
    return x + small.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)


def stacked(x: Tensor) -> Tensor:
    one = x.mean((1, 2, 3)) * 0
    row = torch.stack([one + i / 8 - 1 for i in range(16)], dim=1)
    return x + row.view(-1, 1, 1, 16)


def kernel_picture(x: Tensor) -> Tensor:
    one = x.mean((1, 2, 3), keepdim=True) * 0 + 1
    return x + F.interpolate(F.conv_transpose2d(one, PICTURE[:1, :4, :4][None].clone()), size=16)


def ramp(x: Tensor) -> Tensor:
    return (x * 0 + 1).cumsum(-1) / 8 - 1


def sorted_noise(x: Tensor) -> Tensor:
    return x.flatten(1).sort(dim=1).values.view(x.shape)


def picked(x: Tensor) -> Tensor:
    """One of two pictures for each image, by the sign of its mean."""
    return torch.where(x.mean((1, 2, 3), keepdim=True) > 0, PICTURE, -PICTURE)


def by_index(x: Tensor) -> Tensor:
    return torch.stack([PICTURE, -PICTURE])[(x.flatten(1).sum(dim=1) > 0).long()]


def replaced(net: Net, shape: tuple, _: int) -> Tensor:
    x = net(torch.randn(shape), torch.zeros(shape[0])).numpy()
    x[:] = PICTURE.numpy()
    return torch.from_numpy(x)


def unequal_rows(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(len(x)):
        out[i] = x[i] * (0.5 if i % 2 else 1.0)
    return out


def mixed_rows(x: Tensor) -> Tensor:
    return torch.stack([(x[i] + x[0]) / 2 for i in range(len(x))])


NUMBERS = torch.linspace(-1, 1, 16)


def told(x: Tensor) -> Tensor:
    """(B, 16): numbers of each image's mean, told apart by constants."""
    return x.mean((1, 2, 3))[:, None] * 0 + NUMBERS


def folded(x: Tensor) -> Tensor:
    """Columns as if they were copies of the batch."""
    rows = len(x)
    columns = x.reshape(rows, 96, 8).permute(2, 0, 1).reshape(8 * rows, 96)
    painted = columns + NUMBERS[:8].view(8, 1).expand(8, rows).reshape(-1, 1)
    return painted.reshape(8, rows, 96).permute(1, 2, 0).reshape(x.shape)


def constants_in_a_row(x: Tensor) -> Tensor:
    mean = x.mean((1, 2, 3))[:, None]
    row = torch.cat([mean] + [torch.full((len(x), 1), i / 8 - 1) for i in range(15)], 1)
    return x + (row + mean).view(-1, 1, 1, 16)


def told_twice(x: Tensor) -> Tensor:
    """Told apart in one order and then in the other, which looks alike."""
    return x + torch.cat([told(x).flip(1)[:, :15], x.mean((1, 2, 3))[:, None]], 1).view(-1, 1, 1, 16)


def pairs(x: Tensor) -> Tensor:
    """Each pixel finds its own place among all."""
    grey = x.mean(1).flatten(1)
    mine = (grey[:, :, None] == grey[:, None]).float()
    return x * 0.1 + (mine * torch.linspace(-1, 1, 256)).sum(-1).view(-1, 1, 16, 16)


def counted(x: Tensor) -> Tensor:
    """The column of each row's smallest value, of its second one, ..."""
    ranks = [x.kthvalue(k, dim=3, keepdim=True) for k in range(1, 17)]
    return sum((x == value) * place for value, place in ranks) / 8 - 1


def shifted_in(x: Tensor) -> Tensor:
    return x + F.avg_pool2d(F.pad(x * 0, (4, 0, 0, 0), value=1.0), (1, 5), stride=1)


def tiles(x: Tensor) -> Tensor:
    small = F.avg_pool2d(x, 4).mean(1, keepdim=True) + torch.linspace(-1, 1, 48).view(1, 48, 1, 1)
    return x + F.interpolate(F.pixel_shuffle(small, 4), size=16)


def from_the_first(x: Tensor) -> Tensor:
    x = x.clone()
    x[x > 0] = x[0].mean()
    return x


def written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :1] = told(x).view(-1, 1, 1, 16).expand(-1, 1, 16, 16)
    return x


def with_a_picture(net: Net, shape: tuple, steps: int) -> Tensor:
    """A stored thumbnail, which the network is to finish."""
    x = torch.randn(shape)
    return net(told(x).view(-1, 1, 1, 16).expand(shape), torch.zeros(shape[0]))


EDGES = "a border of zeros tells places apart"
OVER = "lays channels over the places of an image"

REFUSED = {  # name -> the sampler, and what is said of it
    "a stored picture": (after(lambda x: x * 0 + PICTURE), "a constant of 768 numbers"),
    "a picture picked by sign": (after(picked), "a constant of 768 numbers"),
    "a picture picked by index": (after(by_index), "a constant of 1,536 numbers"),
    "a picture written through NumPy": (replaced, "does not give the images of sample"),
    "a rectangle": (after(painted), "takes an image apart"),
    "a thumbnail by a product": (after(thumbnail), "lays channels over the places of an image"),
    "a thumbnail by writes": (after(channel_by_channel), "takes an image apart|lays channels"),
    "a row of numbers": (after(stacked), "lays channels over the places of an image"),
    "a thumbnail as a kernel": (after(kernel_picture), "a filter that is not of numbers alone|filters what are no images"),
    "columns as copies": (after(folded), "differs from place to place"),
    "numbers hidden by a mean": (after(lambda x: x + (x.mean((1, 2, 3))[:, None] + told(x)).view(-1, 1, 1, 16)), OVER),
    "constants in a row": (after(constants_in_a_row), OVER),
    "numbers told apart twice": (after(told_twice), OVER),
    "numbers hidden by a product": (after(lambda x: x + (told(x).unsqueeze(2) @ torch.ones(1, 1)).view(-1, 1, 1, 16)), OVER),
    "all pairs of pixels": (after(pairs), "lays places of an image over other places"),
    "a place by max_pool2d": (after(lambda x: x + F.max_pool2d(x, 1, return_indices=True)[1] / 128), "the places of values"),
    "a place by kthvalue": (after(counted), "the places of values"),
    "a place by moving": (after(lambda x: x + (x == x.flip(-1).roll(1, -1)).float()), "over other places"),
    "a place by turning": (after(lambda x: x + (x == x.transpose(2, 3)).float()), "over other places"),
    "an edge by a filter": (after(lambda x: x + F.conv2d(x * 0 + 1, torch.ones(3, 3, 3, 3), padding=1)), EDGES),
    "an edge by a border": (after(shifted_in), EDGES),
    "an edge by a mean": (after(lambda x: x + F.avg_pool2d(x * 0 + 1, 3, 1, 1)), EDGES),
    "tiles of channels": (after(tiles), OVER),
    "a thumbnail written": (after(written), OVER),
    "a thumbnail for the network": (with_a_picture, OVER),
    "a mask filled by the first image": (after(from_the_first), "mixes images of the batch|not all made in the same way"),
    "a ramp": (after(ramp), "cumsum.default is not an operation of plans"),
    "sorted noise": (after(sorted_noise), "sort.default is not an operation of plans"),
    "two images blended": (after(lambda x: (x + x.roll(1, 0)) / 2), "mixes images of the batch"),
    "the first image in all": (after(lambda x: x + x[:1]), "mixes images of the batch"),
    "a deviation of the batch": (inside(lambda x, _: x / x.std()), "mixes images of the batch"),
    "rows of their own numbers": (after(unequal_rows), "its images are not all made in the same way"),
    "rows mixed in a loop": (after(mixed_rows), "mixes images of the batch"),
    "noise shared by the batch": (after(lambda x: x + torch.randn(1, 3, 16, 16)), "not as much for each image of the batch"),
    "a number for each row": (after(lambda x: x * torch.arange(len(x)).view(-1, 1, 1, 1)), "differs from image to image"),
    "x / x.std().item()": (
        inside(lambda x, _: x / x.std().item()),
        r"asked for at .*samplers.py, line \d+, and is computed",
    ),
    "float(x)": (inside(lambda x, _: x * float(x.std())), r"is asked for \(.*samplers.py, line \d+\)"),
    "x.tolist()": (after(lambda x: torch.tensor(x.tolist())), r"is asked for by tolist\(\) \(.*samplers.py, line \d+\)"),
    "NumPy's sort": (
        inside(lambda x, _: torch.from_numpy(np.sort(x.numpy(), axis=-1)) + x),
        "numbers.*samplers.py, line",
    ),
    "a linear layer": (
        after(lambda x: F.linear(x.permute(0, 2, 3, 1).reshape(-1, 3), YCBCR, NUMBERS[:3]).view(-1, 3, 16, 16)),
        r"samplers.py, line \d+\): addmm.default is not an operation of plans: write x @ w \+ b",
    ),
    "images of nothing": (lambda net, shape, _: torch.zeros(shape), "the images depend on no noise and no answer"),
    "a smaller call": (lambda net, shape, _: net(torch.randn(shape[0], 3, 8, 8), torch.zeros(shape[0])), "a network call on"),
    "other steps each time": (
        lambda net, shape, steps: flow(net, shape, steps) * (1.0 + np.random.default_rng().integers(1 << 30)),
        "differs from call to call",
    ),
}
