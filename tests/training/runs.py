"""Short runs that the tests of training share, and what is read of them."""

import json

import torch

CPU = torch.device("cpu")


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
