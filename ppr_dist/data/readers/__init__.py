"""Readers of public data sets: one file each, found here by name (``python -m ppr_dist.convert --from NAME``)."""

from ppr_dist.data.readers.ali_ad import AliAD
from ppr_dist.data.readers.ali_ec import AliEC
from ppr_dist.data.readers.amazon_2014 import Amazon2014
from ppr_dist.data.readers.amazon_2018 import Amazon2018
from ppr_dist.data.readers.amazon_2023 import Amazon2023
from ppr_dist.data.readers.base import Reader
from ppr_dist.data.readers.cikm_2019 import CIKM2019
from ppr_dist.data.readers.kuairand import KuaiRand
from ppr_dist.data.readers.mind import MIND
from ppr_dist.data.readers.ml_1m import MovieLens1M
from ppr_dist.data.readers.ml_20m import MovieLens20M
from ppr_dist.data.readers.ml_100k import MovieLens100K
from ppr_dist.data.readers.ninerec import NineRec
from ppr_dist.data.readers.pixelrec import PixelRec
from ppr_dist.data.readers.tenrec import Tenrec
from ppr_dist.data.readers.ttl import TTL

READERS: dict[str, Reader] = {
    "ml-100k": MovieLens100K(),
    "ml-1m": MovieLens1M(),
    "ml-20m": MovieLens20M(),
    "cikm-2019": CIKM2019(),
    "ali-ec": AliEC(),
    "ali-ad": AliAD(),
    "tenrec": Tenrec(),
    "kuairand": KuaiRand(),
    "amazon-2014": Amazon2014(),
    "amazon-2018": Amazon2018(),
    "amazon-2023": Amazon2023(),
    "ttl": TTL(),
    "ninerec": NineRec(),
    "pixelrec": PixelRec(),
    "mind": MIND(),
}
