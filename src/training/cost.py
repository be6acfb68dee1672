"""What a run will take, before it starts: FLOP, memory and time, measured on a few images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from src.common.devices import autocast
from src.common.flops import flops_counted
from src.common.processes import Processes
from src.methods.shared.method import Method, with_labels
from src.training.config import TrainingConfig, micro_batches

PROBE = 2  # images of the pass whose FLOP and memory are counted
TIMED_FLOP = 2e11  # of the pass that is timed: of a small network two images take no longer than many


@dataclass
class Estimate:
    """Figures of one training step: floating-point operations of the whole batch, bytes of what stays (weights, gradients, two
    moments, averages), bytes that one pass of micro_batch images keeps, and seconds, measured on `timed` images."""

    flop: float
    fixed_bytes: int
    activation_bytes: int
    seconds: float
    timed: int


def estimate_step(
    model: Method, image_shape: Sequence[int], batch_size: int, micro_batch: int, averages: int, dtype: torch.dtype
) -> Estimate:
    """Measure a step of all parameter groups on a few random images and scale it to batch_size.

    Changes no weight. Does not count the step of the optimizer, which is a small part of it.
    """
    device = model.device
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}  # storage -> bytes
    peak = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor._is_zerotensor():  # a derivative that is known to be zero takes no memory, and has no storage
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def run_passes(count: int) -> None:
        nonlocal peak
        data, noise = torch.randn(2, count, *image_shape, device=device)
        labels = with_labels(torch.ones(count, dtype=torch.int64, device=device) if model.num_classes else None)
        for group in model.optim_groups():
            kept.clear()
            with autocast(device, dtype):
                loss = model.compute_loss(data, noise, step=1, total_steps=1, group=group, **labels)
            peak = max(peak, sum(kept.values()))
            loss.backward()
            model.zero_grad(set_to_none=True)
            loss.item()

    was_training = model.training
    model.train()
    with flops_counted() as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        run_passes(PROBE)
    flop_per_image, activation_bytes = counter.get_total_flops() / PROBE, peak * micro_batch // PROBE
    timed = max(PROBE, min(micro_batch, int(TIMED_FLOP / max(flop_per_image, 1))))
    if timed > PROBE:
        run_passes(timed)  # kernels are prepared for this size
    start = time.perf_counter()
    run_passes(timed)
    seconds = time.perf_counter() - start
    model.train(was_training)
    fixed = parameter_count(model) * (4 + averages) + sum(map(parameter_count, model.train_only.values()))
    return Estimate(flop_per_image * batch_size, 4 * fixed, activation_bytes, seconds * batch_size / timed, timed)


def describe_cost(
    model: Method, config: TrainingConfig, processes: Processes, image_shape: Sequence[int], dtype: torch.dtype
) -> str:
    """What a run would take, from a measurement on a few images on this device; a line each."""
    part = micro_batches(config, processes)[0]
    mine = config.batch_size // processes.size
    averages = len(config.ema_half_lives) + bool(config.ema_decay)
    estimate = estimate_step(model, image_shape, mine, part.stop - part.start, averages, dtype)
    hours = estimate.seconds * config.num_iterations / 3600
    flop = estimate.flop * processes.size
    return "\n".join(
        [
            f"parameters: {parameter_count(model):,}",
            f"FLOP per step: {flop / 1e12:,.2f} TFLOP, {estimate.flop / mine / 1e9:,.1f} GFLOP per image",
            f"memory per process, estimated: {estimate.fixed_bytes / 2**30:.2f} GiB for weights, gradients, optimizer and "
            f"averages, {estimate.activation_bytes / 2**30:.2f} GiB for the activations of {part.stop - part.start} images",
            f"time, estimated from {estimate.timed} images on {model.device}: {estimate.seconds:.2f} s per step, {hours:.1f} "
            f"hours for {config.num_iterations} steps",
        ]
    )


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
