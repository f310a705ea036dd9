"""AliEC, behaviour of the users of Tianchi's data set 56: behavior_log.csv and user_profile.csv, with headers.

behavior_log.csv: user, time_stamp (seconds), btag (pv, cart, fav, buy), cate, brand. A click is a page view (pv). No
item id is published: an item is here a category and a brand together, ``6250_91286`` (PPR, §4.1, does not say what
its items are). The log covers 22 days, from 2017-04-22 to 2017-05-13 in China; some rows carry other times, and are
left out and counted. Values as the data set's page names them (quoted in PaddleRec's models/rank/dmr).
"""

from __future__ import annotations

from ppr_dist.data.readers.base import Log, Raw, Reader

FIRST, END = 1_492_790_400, 1_494_691_200
"""2017-04-22 and 2017-05-14, midnight at UTC+8, in Unix seconds."""
PROFILE = (
    *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation"),
    "new_user_class_level",
)
NULL = ("", "NULL")
"""How these files write an unknown value."""


def profiles(raw: Raw) -> str:
    """SQL of user_profile.csv: eight attributes, integer codes."""
    columns = {"userid": "BIGINT", **dict.fromkeys(PROFILE, "BIGINT")}
    people = raw.csv(raw.file("user_profile.csv"), columns, header=True, null=NULL)
    return f"SELECT userid AS user_id, {', '.join(PROFILE)} FROM {people}"


class AliEC(Reader):
    title = "AliEC (Tianchi 56, Ad Display/Click Data on Taobao.com)"
    page = "https://tianchi.aliyun.com/dataset/56"
    terms = "an account at Tianchi, and the terms on that page"

    def read(self, raw: Raw) -> Log:
        columns = {
            "user": "BIGINT",
            "time_stamp": "BIGINT",
            "btag": "ENUM('pv', 'cart', 'fav', 'buy')",
            "cate": "BIGINT",
            "brand": "BIGINT",
        }
        log = raw.csv(raw.file("behavior_log.csv"), columns, header=True, null=NULL)
        item = "concat(cate, '_', brand)"
        in_time = f"time_stamp >= {FIRST} AND time_stamp < {END}"
        return Log(
            interactions=f'SELECT "user" AS user_id, {item} AS item_id, time_stamp AS timestamp, cate, brand FROM {log}'
            f" WHERE btag = 'pv' AND {in_time}",
            users=profiles(raw),
            items="SELECT DISTINCT item_id, cate AS category, brand FROM interactions ORDER BY ALL",
            left_out={
                "events that are no view (cart, fav, buy)": f"SELECT count(*) FROM {log} WHERE btag <> 'pv'",
                "views outside the 22 days": f"SELECT count(*) FROM {log} WHERE btag = 'pv' AND NOT ({in_time})",
            },
        )
