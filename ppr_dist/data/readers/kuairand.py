"""KuaiRand-Pure, -1K and -27K (README of the data set): log_*.csv, user_features_*.csv, video_features_basic_*.csv.

A click is a row with is_click = 1: a click in the interface of two columns, a valid play (7 s, or all of a shorter
video) in that of one. Clicks on videos that were shown at random (log_random_*) count too: users made them.
Attributes are the categories of user_features; numbers that also stand there as ranges are left out.
"""

from __future__ import annotations

from ppr_dist.data.readers.base import Log, Raw, Reader

PROFILE = (
    *("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num_range"),
    *("fans_user_num_range", "friend_user_num_range", "register_days_range"),
    *(f"onehot_feat{k}" for k in range(18)),
)
VIDEO = ("author_id", "video_type", "upload_dt", "upload_type", "music_id", "tag")


class KuaiRand(Reader):
    title = "KuaiRand"
    page = "https://kuairand.com"
    terms = "CC BY-SA 4.0"

    def read(self, raw: Raw) -> Log:
        columns = {"user_id": "BIGINT", "video_id": "BIGINT", "time_ms": "BIGINT", "is_click": "TINYINT"}
        log = raw.csv(raw.some("log_*.csv"), columns, header=True)
        people = {"user_id": "BIGINT", **dict.fromkeys(PROFILE, "VARCHAR")}
        videos = {"video_id": "BIGINT", **dict.fromkeys(VIDEO, "VARCHAR")}
        users = raw.csv(raw.file("user_features*.csv"), people, header=True)
        items = raw.csv(raw.file("video_features_basic*.csv"), videos, header=True)
        return Log(
            interactions="SELECT user_id, video_id AS item_id, epoch_ms(time_ms) AS timestamp"
            f" FROM {log} WHERE is_click = 1",
            users=f"SELECT * FROM {users}",
            items=f"SELECT video_id AS item_id, {', '.join(VIDEO[:-1])}, string_split(tag, ',') AS tags FROM {items}",
            left_out={"rows without a click": f"SELECT count(*) FROM {log} WHERE is_click IS DISTINCT FROM 1"},
        )
