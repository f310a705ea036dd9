"""AliAD, advertisements of Tianchi's data set 56: raw_sample.csv, ad_feature.csv, user_profile.csv, with headers.

raw_sample.csv: user, time_stamp (seconds), adgroup_id, pid, nonclk, clk. A click is a row with clk = 1, on the item
adgroup_id; the others are advertisements shown. Columns as the data set's page names them (quoted in PaddleRec's
models/rank/dmr).
"""

from __future__ import annotations

from ppr_dist.data.readers.ali_ec import NULL, AliEC, profiles
from ppr_dist.data.readers.base import Log, Raw, Reader


class AliAD(Reader):
    title = AliEC.title.replace("AliEC", "AliAD")
    page = AliEC.page
    terms = AliEC.terms

    def read(self, raw: Raw) -> Log:
        columns = {"user": "BIGINT", "time_stamp": "BIGINT", "adgroup_id": "BIGINT", "clk": "TINYINT"}
        features = dict.fromkeys(("adgroup_id", "cate_id", "campaign_id", "customer", "brand"), "BIGINT")
        log = raw.csv(raw.file("raw_sample.csv"), columns, header=True)
        items = raw.csv(raw.file("ad_feature.csv"), {**features, "price": "DOUBLE"}, header=True, null=NULL)
        return Log(
            interactions='SELECT "user" AS user_id, adgroup_id AS item_id, time_stamp AS timestamp'
            f" FROM {log} WHERE clk = 1",
            users=profiles(raw),
            items="SELECT adgroup_id AS item_id, cate_id AS category, campaign_id AS campaign, customer, brand, price"
            f" FROM {items}",
            left_out={
                "advertisements shown without a click": f"SELECT count(*) FROM {log} WHERE clk IS DISTINCT FROM 1"
            },
        )
