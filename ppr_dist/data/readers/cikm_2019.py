"""CIKM 2019 EComm AI, user behaviour at Taobao: user_behavior.csv, user.csv and item.csv of one round, without headers.

user_behavior.csv: user, item, event (pv, fav, cart, buy), seconds since a start that is not published. A click is a
page view (pv): PPR (§4.1) counts "click instances" and does not say more.
Columns as in the winner's code (ChuanyuXue/CIKM-2019-AnalytiCup, Qualification.py).
"""

from __future__ import annotations

from ppr_dist.data.readers.base import Log, Raw, Reader


class CIKM2019(Reader):
    title = "CIKM 2019 EComm AI"
    page = "https://tianchi.aliyun.com/competition/entrance/231719"
    terms = "an account at Tianchi, and the competition's rules"

    def read(self, raw: Raw) -> Log:
        events = {"user_id": "BIGINT", "item_id": "BIGINT", "event": "ENUM('pv', 'fav', 'cart', 'buy')"}
        people = {"user_id": "BIGINT", "gender": "BIGINT", "age": "BIGINT", "purchase_level": "BIGINT"}
        goods = {"item_id": "BIGINT", "category": "BIGINT", "shop": "BIGINT", "brand": "BIGINT"}
        log = raw.csv(raw.file("user_behavior.csv"), {**events, "timestamp": "BIGINT"})
        return Log(
            interactions=f"SELECT user_id, item_id, timestamp FROM {log} WHERE event = 'pv'",
            users=f"SELECT * FROM {raw.csv(raw.file('user.csv'), people)}",
            items=f"SELECT * FROM {raw.csv(raw.file('item.csv'), goods)}",
            left_out={"events that are no view (fav, cart, buy)": f"SELECT count(*) FROM {log} WHERE event <> 'pv'"},
        )
