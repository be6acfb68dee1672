"""The losses by name, as --loss_type has them, their options as flags, and how a run of one begins."""

from dataclasses import Field, fields

from src.common.devices import seed_everything
from src.common.options import Options
from src.score_distillation.loss import Loss
from src.score_distillation.prior import Condition, Prior
from src.score_distillation.sdi import SDI
from src.score_distillation.sds import SDS
from src.score_distillation.vsd import VSD

LOSSES: dict[str, type[Loss]] = {"sds": SDS, "vsd": VSD, "sdi": SDI}


def loss_fields() -> list[Field]:
    """The options of all losses, each name once."""
    return list({item.name: item for loss in LOSSES.values() for item in fields(loss.Config)}.values())


def start(loss_type: str, prior: Prior, condition: Condition, options: Options, seed: int) -> Loss:
    """A run of the loss of this name, before its first step; the first weights of adapters are the seed's."""
    seed_everything(seed)
    return LOSSES[loss_type](prior, condition, options)
