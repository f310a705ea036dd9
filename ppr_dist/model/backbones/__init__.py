"""Backbones: one file each, found here by name."""

from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.backbones.sasrec import SASRec

BACKBONES: dict[str, type[Backbone]] = {
    "sasrec": SASRec,
}
