"""Backbones: one file each, found here by name."""

from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.backbones.bert4rec import BERT4Rec
from ppr_dist.model.backbones.dssm import DSSM
from ppr_dist.model.backbones.gru4rec import GRU4Rec
from ppr_dist.model.backbones.hstu import HSTU
from ppr_dist.model.backbones.nextitnet import NextItNet
from ppr_dist.model.backbones.sasrec import SASRec

BACKBONES: dict[str, type[Backbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "hstu": HSTU,
    "nextitnet": NextItNet,
    "bert4rec": BERT4Rec,
    "dssm": DSSM,
}
