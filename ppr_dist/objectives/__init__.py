"""Objectives: one file each, found here by name. Several may be added up."""

from ppr_dist.objectives.attribute import Attribute
from ppr_dist.objectives.base import Objective
from ppr_dist.objectives.bce import BCE
from ppr_dist.objectives.bpr import BPR
from ppr_dist.objectives.cl4srec import CL4SRec
from ppr_dist.objectives.clue import CLUE
from ppr_dist.objectives.contrastive import Contrastive
from ppr_dist.objectives.full_softmax import FullSoftmax
from ppr_dist.objectives.gbce import GBCE
from ppr_dist.objectives.labels import Labels
from ppr_dist.objectives.softmax import SampledSoftmax

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        SampledSoftmax,
        FullSoftmax,
        BPR,
        BCE,
        GBCE,
        Contrastive,
        CL4SRec,
        CLUE,
        Attribute,
        Labels,
    )
}
