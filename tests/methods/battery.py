"""What every method must hold. test_methods.py runs it over the registry; test_battery.py plants faults that it must find."""

from collections.abc import Callable
from contextlib import contextmanager

import torch

from src.challenges import get_challenge
from src.challenges.shared.unet import ClassUNet
from src.common.checkpoints import load_model, save_model
from src.common.devices import PRECISIONS, autocast
from src.common.networks import takes_condition
from src.methods import Method
from src.methods.shared import discriminators
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from src.training.writing import Previews
from tests.helpers import SHAPE, TINY, assert_images_agree, random_images

Make = Callable[[], Method]
SEEDS = list(range(100, 106))
CHALLENGE = get_challenge("simpsons")
PREVIEWS = Previews(CHALLENGE.nfe, CHALLENGE.to_array, CHALLENGE.picture, count=2)


@contextmanager
def network_calls(model: Method, change: Callable | None = None):
    """Record the calls of the model's network as (x, timestep, condition); change(index, output) may replace an output."""
    calls = []
    forward = model.network.forward

    def recording(x, timestep, condition=None):
        output = forward(x, timestep, condition) if condition is not None else forward(x, timestep)
        calls.append((x.detach().clone(), timestep.detach().clone(), None if condition is None else condition.detach().clone()))
        return change(len(calls) - 1, output) if change else output

    model.network.forward = recording
    try:
        yield calls
    finally:
        model.network.forward = forward


def sample(model: Method, nfe: int, seeds=SEEDS) -> torch.Tensor:
    with torch.no_grad():
        return model.sample((len(seeds), *SHAPE), num_inference_timesteps=nfe, seeds=seeds)


def check_ends_of_forward_process(make: Make) -> None:
    scheduler = make().scheduler
    assert scheduler.t_data != scheduler.t_noise, "the direction of time is not declared"
    data, noise = torch.randn(4, *SHAPE), torch.randn(4, *SHAPE)
    at = lambda t: scheduler.forward_process(data, noise, torch.full((4,), t))  # noqa: E731
    torch.testing.assert_close(at(scheduler.t_data), data, atol=1e-2, rtol=1e-2)
    pure = at(scheduler.t_noise)
    pure = pure / pure.std()
    correlation = torch.corrcoef(torch.stack([pure.flatten(), noise.flatten()]))[0, 1].item()
    assert correlation > 0.99, f"at t_noise the state has correlation {correlation:.3f} with the noise"


def check_oracle_step(make: Make) -> None:
    """The exact prediction carries noise to data in one step."""
    scheduler = make().scheduler
    data, noise = torch.randn(4, *SHAPE), torch.randn(4, *SHAPE)
    start, end = torch.full((4,), scheduler.t_noise), torch.full((4,), scheduler.t_data)
    xt = scheduler.forward_process(data, noise, start)
    reached = scheduler.reverse_process_step(xt, scheduler.get_target(data, noise, start), start, end)
    torch.testing.assert_close(reached, data, atol=1e-3, rtol=1e-3)


def check_training_times(make: Make) -> None:
    scheduler = make().scheduler
    torch.manual_seed(0)
    t = scheduler.sample_timesteps(2000, "cpu")
    low, high = sorted((scheduler.t_data, scheduler.t_noise))
    assert t.shape == (2000,) and t.is_floating_point()
    assert low <= t.min() and t.max() <= high
    assert t.std() > 0.05 * t.abs().mean(), "training times hardly vary"


def check_number_of_calls(make: Make) -> None:
    """sample(n) calls the network n times, and a change of any one call's output changes the images."""
    for nfe in (1, 2, 4):
        model = make()
        with network_calls(model) as calls:
            images = sample(model, nfe)
        assert len(calls) == nfe, f"sample at NFE {nfe} called the network {len(calls)} times"
        assert images.shape == (len(SEEDS), *SHAPE) and torch.isfinite(images).all()
        for changed in range(nfe):
            with network_calls(model, lambda index, out, changed=changed: out + 0.5 if index == changed else out):
                other = sample(model, nfe)
            difference = (other - images).abs().mean().item()
            assert difference > 1e-3, f"at NFE {nfe}, call {changed + 1} changes the images by {difference:.1e} only"


def check_nfe_differ(make: Make) -> None:
    model = make()
    one, two, four = (sample(model, nfe) for nfe in (1, 2, 4))
    assert (one - two).abs().mean() > 1e-3 and (two - four).abs().mean() > 1e-3


def check_seeds(make: Make) -> None:
    """An image follows from its seed: not from the batch it is in, nor from the global generator."""
    model = make()
    for nfe in (1, 2, 4):
        torch.manual_seed(0)
        images = sample(model, nfe)
        torch.manual_seed(1)
        parts = torch.cat([sample(model, nfe, SEEDS[:1]), sample(model, nfe, SEEDS[1:])])
        torch.testing.assert_close(parts, images, atol=1e-4, rtol=1e-4)
        assert (images[0] - images[1]).abs().mean() > 1e-2, "two seeds give one image"
    torch.manual_seed(0)
    unseeded = [model.sample((2, *SHAPE), num_inference_timesteps=2) for _ in range(2)]
    assert (unseeded[0] - unseeded[1]).abs().mean() > 1e-2


def check_unknown_keywords(make: Make) -> None:
    """What sample() does not know is refused, not dropped: a word that was mistyped must not change nothing."""
    try:
        make().sample((1, *SHAPE), num_inference_timesteps=2, seeds=SEEDS[:1], gidance=7.5)
    except TypeError as error:
        assert "gidance" in str(error)
    else:
        raise AssertionError("sample() drops a keyword that it does not know")


def check_trajectory(make: Make) -> None:
    model = make()
    states = model.sample((2, *SHAPE), num_inference_timesteps=4, return_traj=True, seeds=SEEDS[:2])
    assert isinstance(states, list) and len(states) >= 2
    torch.testing.assert_close(states[-1], sample(model, 4, SEEDS[:2]))


def check_save_and_load(make: Make, create, model_config: dict, folder) -> None:
    """A saved model samples the same after loading, and its file holds nothing that only training needs."""
    model = make()
    save_model(model, folder / "m.pt", model_config)
    loaded = load_model(folder / "m.pt", create).eval()
    torch.testing.assert_close(sample(loaded, 2), sample(model, 2), atol=0, rtol=0)
    keys = torch.load(folder / "m.pt", weights_only=True)["state_dict"].keys()
    for name in model.train_only:
        assert not any(name in key.split(".") for key in keys), f"train-only module {name} is in the checkpoint"


def check_loss(make: Make) -> None:
    """A finite scalar for every batch size, that reaches every parameter of its group."""
    for batch in (1, 4):
        model = make().train()
        for group, parameters in model.optim_groups().items():
            parameters = list(parameters)
            torch.manual_seed(0)
            data, noise = torch.randn(batch, *SHAPE), torch.randn(batch, *SHAPE)
            loss = model.compute_loss(data, noise, step=1, total_steps=10, group=group)
            assert loss.ndim == 0 and torch.isfinite(loss)
            loss.backward()
            idle = [p.shape for p in parameters if p.grad is None or not torch.isfinite(p.grad).all()]
            assert not idle, f"parameters without a finite gradient: {idle}"


def check_bfloat16_images(make: Make) -> None:
    """Under autocast the images are those of float32 but for what rounding to bfloat16 explains, and not the same to a bit."""
    model = make()
    for nfe in (1, 2, 4):
        expected = sample(model, nfe)
        with autocast(torch.device("cpu"), torch.bfloat16):
            images = sample(model, nfe)
        assert not torch.equal(images, expected), "bfloat16 was not used"
        assert_images_agree(images.float(), expected, "bf16", model.network)


def check_bfloat16_loss(make: Make) -> None:
    """check_loss under autocast, as training computes it: finite, and reaching every parameter."""
    with autocast(torch.device("cpu"), torch.bfloat16):
        check_loss(make)


def check_condition(make: Make) -> None:
    """Where the condition is declared it takes several values, and another value gives other images."""
    model = make()
    if not takes_condition(model.network):
        return
    seen = []
    for nfe in (1, 4):
        with network_calls(model) as calls:
            sample(model, nfe)
        seen += [call[2] for call in calls]
    with network_calls(model) as calls:
        for seed in range(4):
            torch.manual_seed(seed)
            model.compute_loss(torch.randn(8, *SHAPE), torch.randn(8, *SHAPE), step=1, total_steps=10, group="network")
    seen += [call[2] for call in calls]
    assert len(torch.cat(seen).unique()) > 1, "the condition is always the same number"
    x, t = torch.randn(2, *SHAPE), torch.full((2,), 0.5)
    outputs = [model.network(x, t, torch.full((2,), value)) for value in (0.0, 500.0)]
    assert (outputs[0] - outputs[1]).abs().mean() > 1e-4, "the network's output does not depend on the condition"


def run_loop(model: Method, folder, steps: int = 4, precision: str = "fp32", resume: bool = False, **config) -> None:
    """Train for a few steps on random images, in a layout that no measurement decides, so that two runs can be compared."""
    short = {"batch_size": 8, "num_iterations": steps, "lr": 1e-2, "lr_warmup": 0, "log_interval": 2, "save_interval": 100}
    settings = TrainingConfig(**{**short, **config})
    options, cpu = {"method": "custom", **TINY}, torch.device("cpu")
    Trainer(model, random_images(32), settings, options, folder, cpu, PRECISIONS[precision], previews=PREVIEWS).run(resume)


def check_noise_of_the_loop(make: Make, folder) -> None:
    """The loop hands compute_loss standard normal noise, independent of the data and of its own draws, new at each step."""
    model = make()
    batches = []
    compute_loss = model.compute_loss

    def recording(data, noise, **kwargs):
        batches.append((data.clone(), noise.clone(), torch.randn_like(noise)))
        return compute_loss(data, noise, **kwargs)

    model.compute_loss = recording
    run_loop(model, folder)
    data, noise, drawn = (torch.stack(each).flatten() for each in zip(*batches, strict=True))
    for other, name in ((data, "data"), (drawn, "what compute_loss draws")):
        correlation = torch.corrcoef(torch.stack([other, noise]))[0, 1].item()
        assert abs(correlation) < 0.03, f"correlation of noise and {name} is {correlation:.3f}"
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert not torch.equal(batches[0][1], batches[-1][1]), "the noise is the same at every step"


def check_checkpoint_is_average(make: Make, folder) -> None:
    """last.ckpt holds the average of the weights by the formula; training itself goes on from the latest weights."""
    model = make()
    history = [[p.detach().clone() for p in model.parameters()]]
    on_step_end = model.on_step_end

    def recording(step, total):
        history.append([p.detach().clone() for p in model.parameters()])
        on_step_end(step, total)

    model.on_step_end = recording
    run_loop(model, folder, steps=6, ema_half_lives=[0.5], save_interval=3)
    average = history[0]
    for step, weights in enumerate(history[1:], start=1):
        keep = 2.0 ** (-2 / step)
        average = [keep * old + (1 - keep) * new for old, new in zip(average, weights, strict=True)]
    saved = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    for (name, parameter), expected, latest in zip(model.named_parameters(), average, history[-1], strict=True):
        torch.testing.assert_close(saved[name], expected, atol=1e-5, rtol=1e-5, msg=f"{name} is not the average")
        assert torch.equal(parameter, latest), "the average overwrote the weights in training"
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(average, history[-1], strict=True))


def check_labels(make_labelled: Make) -> None:
    """Of a method that takes labels: every call in training and sampling is given each image's own label, and heeds it.

    Data and noise of row i are a pattern of their own, by which a row is known wherever it goes.
    """
    model = make_labelled()
    count = model.num_classes
    patterns = torch.zeros(count, SHAPE[0] * SHAPE[1] * SHAPE[2])
    patterns[torch.arange(count), 7 * torch.arange(count) + 3] = 30.0
    patterns = patterns.view(count, *SHAPE)
    labels = torch.arange(1, count + 1).roll(2)  # not the row's own number

    for group in model.optim_groups():
        for seed in range(3):
            torch.manual_seed(seed)
            with labelled_calls() as calls:
                model.compute_loss(patterns, patterns, step=2, total_steps=10, group=group, labels=labels)
            assert calls, f"group {group}: the loss calls no network"
            for rows, given in calls:
                assert given is not None, f"group {group}: a call in training is given no labels"
                if len(given) == count and set(rows) == {None}:
                    rows = range(count)  # no pattern any more, but the whole batch
                wrong = [
                    (row, label) for row, label in zip(rows, given, strict=True) if row is not None and label != labels[row]
                ]
                assert not wrong, f"group {group}: rows and the labels that they were given: {wrong}"

    for nfe in (1, 2, 4):
        asked = torch.arange(len(SEEDS)) % count + 1
        with torch.no_grad(), labelled_calls() as calls:
            images = model.sample((len(SEEDS), *SHAPE), nfe, seeds=SEEDS, labels=asked)
            others = model.sample((len(SEEDS), *SHAPE), nfe, seeds=SEEDS, labels=asked % count + 1)
            none = model.sample((len(SEEDS), *SHAPE), nfe, seeds=SEEDS)
            zero = model.sample((len(SEEDS), *SHAPE), nfe, seeds=SEEDS, labels=torch.zeros_like(asked))
        assert [given for _, given in calls[:nfe]] == [asked.tolist()] * nfe, f"NFE {nfe}: a call is not given the labels"
        for name, found in (("another label", others), ("no label", none)):
            differ = (found - images).abs().flatten(1).mean(dim=1).min().item()
            assert differ > 1e-3, f"NFE {nfe}: {name} changes an image by {differ:.1e} only"
        torch.testing.assert_close(none, zero)


@contextmanager
def labelled_calls():
    """Record every call of a network with classes: which row of the patterns each image is, or None, and the labels given."""
    calls = []
    forward, embed = ClassUNet.forward, discriminators.embed

    def plain(value: torch.Tensor | None) -> torch.Tensor | None:
        while value is not None and torch._C._functorch.is_functorch_wrapped_tensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        return value if value is None else value.detach()

    def row(image: torch.Tensor) -> int | None:
        largest, places = image.flatten().abs().topk(2)
        known = largest[0] > 5 * largest[1] and places[0] % 7 == 3
        return places[0].item() // 7 if known else None

    def note(rows: list, labels: torch.Tensor | None) -> None:
        calls.append((rows, None if labels is None else plain(labels).tolist()))

    def forward_noted(self, x, timestep, condition=None, labels=None):
        note([row(image) for image in plain(x)], labels)
        return forward(self, x, timestep, condition, labels)

    def embed_noted(unet, timestep, condition=None, labels=None):  # a discriminator's call
        note([None] * len(timestep), labels)
        return embed(unet, timestep, condition, labels)

    ClassUNet.forward, discriminators.embed = forward_noted, embed_noted
    try:
        yield calls
    finally:
        ClassUNet.forward, discriminators.embed = forward, embed
