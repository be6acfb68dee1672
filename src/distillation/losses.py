"""The losses by name, as --loss_type has them, and their options as flags."""

from dataclasses import Field, fields

from src.distillation.loss import Loss
from src.distillation.sdi import SDI
from src.distillation.sds import SDS
from src.distillation.vsd import VSD

LOSSES: dict[str, type[Loss]] = {"sds": SDS, "vsd": VSD, "sdi": SDI}


def loss_fields() -> list[Field]:
    """The options of all losses, each name once."""
    return list({item.name: item for loss in LOSSES.values() for item in fields(loss.Config)}.values())
