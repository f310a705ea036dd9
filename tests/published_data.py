"""Invented data sets in the formats of those that ``ppr_dist.convert`` reads: a few lines each, of nobody."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

Rows = list[tuple[Any, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """The files of a data set, and what is to be read of them."""

    files: dict[str, str]
    """Text by path; the first is the log."""
    clicks: dict[Any, list[Any]]
    """User → items, oldest first."""
    users: Rows = dataclasses.field(default_factory=list)
    """user_id and attributes, sorted; none = no profiles."""
    items: Rows = dataclasses.field(default_factory=list)
    """item_id and what is known, sorted; none = nothing."""
    torn: str
    """A last line of the log that was cut off, or is not of its columns' types."""
    encoding: str = "utf-8"

    def write(self, folder: Path) -> Path:
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            data = text.encode(self.encoding)
            (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return folder

    @property
    def log(self) -> str:
        return next(iter(self.files))


def lines(*rows: Any, end: str = "\n") -> str:
    return "".join(f"{row}{end}" for row in rows)


def jsons(*rows: dict[str, Any]) -> str:
    return lines(*map(json.dumps, rows))


GENRES_100K = "|0|1|0|0|1|1" + "|0" * 13

TTL_FILES = {
    "ColdRec/original_desen_pretrain.csv": lines("0,0,11,12,13", "0,11,14,11,12", "0,0,0,0,11", "0,0,0,0,11"),
    "ColdRec/original_desen_finetune_click_nouserID.csv": lines("0,0,11,12,13,,901,902", "0,0,0,13,12,,901"),
    "ColdRec/original_desen_finetune_like_nouserID.csv": lines("0,0,0,0,11,,903"),
    "ColdRec/original_desen_age.csv": lines("0,0,11,12,13,,3", "0,11,14,11,12,,1"),
    "ColdRec/original_desen_gender.csv": lines("0,11,14,11,12,,2", "0,0,0,13,12,,1"),
    "ColdRec/original_desen_lifestatus.csv": lines("0,11,14,11,12,,0"),
}
PROFILE_56 = "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation"
KUAI_USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{k}" for k in range(18))
)
KUAI_LOG = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_rand,tab"
NO_FLAGS = ",".join("0" * 18)

PUBLISHED: dict[str, Published] = {
    "ml-100k": Published(
        files={
            "ml-100k/u.data": lines("196\t242\t3\t881250949", "196\t302\t5\t881250000", "22\t242\t1\t878887116"),
            "ml-100k/u.user": lines("196|49|M|writer|55105", "22|24|F|other|T8H1N"),
            "ml-100k/u.item": lines(
                f"242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/?Kolya{GENRES_100K}",
                f"302|Café (1997)|01-Jan-1997||{'|0' * 19}",
            ),
        },
        encoding="latin-1",
        clicks={22: [242], 196: [302, 242]},
        users=[(22, 24, "F", "other", "T8H1N"), (196, 49, "M", "writer", "55105")],
        items=[(242, "Kolya (1996)", ["Action", "Children's", "Comedy"]), (302, "Café (1997)", [])],
        torn="22\t302\t1",
    ),
    "ml-1m": Published(
        files={
            "ml-1m/ratings.dat": lines("1::1193::5::978300760", "1::661::3::978300000", "2::1193::2::978299000"),
            "ml-1m/users.dat": lines("1::F::1::10::48067", "2::M::56::16::00501-12"),
            "ml-1m/movies.dat": lines('661::Les Misérables: "I" (1995)::Drama|Musical', "1193::Nest (1975)::Drama"),
        },
        encoding="latin-1",
        clicks={1: [661, 1193], 2: [1193]},
        users=[(1, "F", 1, 10, "48067"), (2, "M", 56, 16, "00501-12")],
        items=[(661, 'Les Misérables: "I" (1995)', ["Drama", "Musical"]), (1193, "Nest (1975)", ["Drama"])],
        torn="2::661::4::97829",
    ),
    "ml-20m": Published(
        files={
            "ratings.csv": lines("userId,movieId,rating,timestamp", "1,2,3.5,1112486027", "1,29,0.5,1112484676"),
            "movies.csv": lines(
                "movieId,title,genres", '2,"Cité, La (1995)",Adventure|Fantasy', "29,X,(no genres listed)"
            ),
            "tags.csv": "userId,movieId,tag,timestamp\n",
        },
        clicks={1: [29, 2]},
        items=[(2, "Cité, La (1995)", ["Adventure", "Fantasy"]), (29, "X", [])],
        torn="1,47,",
    ),
    "cikm-2019": Published(
        files={
            "user_behavior.csv": lines("7,100,pv,40", "7,101,buy,50", "7,101,pv,10", "8,100,pv,86400", "8,102,cart,5"),
            "user.csv": lines("7,0,34,5", "8,1,,2"),
            "item.csv": lines("100,1,2,3", "101,1,9,3"),
        },
        clicks={7: [101, 100], 8: [100]},
        users=[(7, 0, 34, 5), (8, 1, None, 2)],
        items=[(100, 1, 2, 3), (101, 1, 9, 3)],
        torn="8,100,p,9",
    ),
    "ali-ec": Published(
        files={
            "behavior_log.csv": lines(
                "user,time_stamp,btag,cate,brand",
                "5,1493741625,pv,6250,91286",
                "5,1493741000,pv,6250,NULL",
                "5,1493741626,buy,6250,91286",
                "6,1494691199,pv,4280,91286",
                "6,-1493741000,pv,4280,91286",
                "6,1494691200,pv,4280,91286",
            ),
            "user_profile.csv": lines(
                f"{PROFILE_56},new_user_class_level ", "5,0,5,2,5,,3,0,3", "6,1,2,1,2,2,3,1,NULL"
            ),
        },
        clicks={5: ["6250_", "6250_91286"], 6: ["4280_91286"]},
        users=[(5, 0, 5, 2, 5, None, 3, 0, 3), (6, 1, 2, 1, 2, 2, 3, 1, None)],
        items=[("4280_91286", 4280, 91286), ("6250_", 6250, None), ("6250_91286", 6250, 91286)],
        torn="6,1494600000,",
    ),
    "ali-ad": Published(
        files={
            "raw_sample.csv": lines(
                "user,time_stamp,adgroup_id,pid,nonclk,clk",
                "5,1494137644,1,430548_1007,1,0",
                "5,1494137645,2,430548_1007,0,1",
                "5,1494100000,1,430539_1007,0,1",
            ),
            "ad_feature.csv": lines(
                "adgroup_id,cate_id,campaign_id,customer,brand,price", "1,6406,83237,1,95471,170.0", "2,7,8,9,NULL,1.5"
            ),
            "user_profile.csv": lines(f"{PROFILE_56},new_user_class_level ", "5,0,5,2,5,,3,0,3"),
        },
        clicks={5: [1, 2]},
        users=[(5, 0, 5, 2, 5, None, 3, 0, 3)],
        items=[(1, 6406, 83237, 1, 95471, 170.0), (2, 7, 8, 9, None, 1.5)],
        torn="5,1494137644,1,430548_1007,1",
    ),
    "tenrec": Published(
        files={
            "QB-video.csv": lines(
                "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age",
                "2,40,1,0,0,0,3,1,1,4",
                "2,41,0,0,0,0,\\N,0,1,4",
                "2,41,1,0,1,0,5,2,1,4",
                "1,40,1,0,0,0,3,1,2,0",
                "2,39,1,0,0,0,3,1,1,4",
            )
        },
        clicks={1: [40], 2: [40, 41, 39]},
        users=[(1, 2, 0), (2, 1, 4)],
        items=[(39, "3"), (40, "3"), (41, "5")],
        torn="1,41,1,0,0",
    ),
    "kuairand": Published(
        files={
            "data/log_standard_4_08_to_4_21_pure.csv": lines(
                KUAI_LOG, "0,30,20220408,400,1649395200123,1,0,0,1", "0,31,20220408,400,1649395200200,0,0,0,1"
            ),
            "data/log_random_4_22_to_5_08_pure.csv": lines(KUAI_LOG, "0,32,20220408,300,1649395200122,1,0,1,1"),
            "data/user_features_pure.csv": lines(
                KUAI_USER, f'0,full_active,0,0,1,5,"(0,10]",312,"[100,1k)",0,0,3624,730+,{NO_FLAGS}'
            ),
            "data/video_features_basic_pure.csv": lines(
                "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
                "server_height,music_id,music_type,tag",
                '30,441,NORMAL,2020-07-08,ShortImport,1,17200.0,720,1280,989206467,4,"12,65"',
            ),
        },
        clicks={0: [32, 30]},
        users=[(0, "full_active", *"001", "(0,10]", "[100,1k)", "0", "730+", *"0" * 18)],
        items=[(30, "441", "NORMAL", "2020-07-08", "ShortImport", "989206467", ["12", "65"])],
        torn="0,33,20220408,400,1649395200124,yes,0,0,1",
    ),
    "amazon-2014": Published(
        files={
            "reviews_Beauty_5.json": jsons(
                {"reviewerID": "A1", "asin": "B2", "helpful": [0, 1], "overall": 5.0, "unixReviewTime": 1252800000},
                {"reviewerID": "A1", "asin": "B1", "overall": 1.0, "unixReviewTime": 1252713600},
            ),
            "meta_Beauty.json.gz": lines(
                {
                    "asin": "B1",
                    "title": "It's soap",
                    "imUrl": "http://x/1.jpg",
                    "categories": [["Beauty", "Soap"], ["A"]],
                },
                {"asin": "B2", "brand": "Q", "price": 3.5},
            ),
        },
        clicks={"A1": ["B1", "B2"]},
        items=[
            ("B1", "It's soap", None, ["Beauty", "Soap"], "http://x/1.jpg"),
            ("B2", None, "Q", [], None),
        ],
        torn='{"reviewerID": "A1", "asin": "B',
    ),
    "amazon-2018": Published(
        files={
            "All_Beauty_5.json": jsons(
                {"overall": 5.0, "verified": True, "reviewerID": "A1", "asin": "B2", "unixReviewTime": 1252800000},
                {"overall": 2.0, "reviewerID": "A1", "asin": "B1", "style": {"a": "b"}, "unixReviewTime": 1252713600},
            ),
            "meta_All_Beauty.json.gz": jsons(
                {"asin": "B1", "title": "Soap", "brand": "", "category": ["Beauty"], "imageURLHighRes": ["h1", "h2"]},
                {"asin": "B1", "title": "Soap again"},
            ),
        },
        clicks={"A1": ["B1", "B2"]},
        items=[("B1", "Soap", "", ["Beauty"], "h1")],
        torn='{"reviewerID": "A1", "asin": "B1", "unixReviewTime": "Monday"}',
    ),
    "amazon-2023": Published(
        files={
            "All_Beauty.jsonl": jsons(
                {
                    "rating": 5.0,
                    "images": [],
                    "asin": "B9",
                    "parent_asin": "B2",
                    "user_id": "AE",
                    "timestamp": 1588687728923,
                },
                {"rating": 4.0, "asin": "B1", "parent_asin": "B1", "user_id": "AE", "timestamp": 1588687728922},
            ),
            "meta_All_Beauty.jsonl.gz": jsons(
                {
                    "main_category": "All Beauty",
                    "title": "Spray",
                    "images": [{"thumb": "t", "large": "l", "hi_res": None}],
                    "store": "S",
                    "categories": [],
                    "parent_asin": "B1",
                }
            ),
        },
        clicks={"AE": ["B1", "B2"]},
        items=[("B1", "Spray", "All Beauty", [], "S", "l")],
        torn='{"rating": 5.0, "parent_asin": ',
    ),
    "ttl": Published(
        files=TTL_FILES,
        clicks={1: [11, 12, 13], 2: [11, 14, 11, 12], 3: [11], 4: [11], 5: [13, 12]},
        users=[(1, 3, None, None), (2, 1, 2, None), (3, None, None, None), (4, None, None, None), (5, None, 1, None)],
        torn="0,11,14,",
    ),
    "ninerec": Published(
        files={
            "DY/DY_pair.csv": lines("u1,v2,1624514400", "u1,v1,1624514000", "u2,v2,1624514400", "u2,v9,1624514500"),
            "DY/DY_item.csv": lines('v1,"电影，《X》","A film, X"', "v2,Y,Y"),
            "DY/DY_cover/v1.jpg": "",
        },
        clicks={"u1": ["v1", "v2"], "u2": ["v2", "v9"]},
        items=[("v1", "电影，《X》", "A film, X", "DY/DY_cover/v1.jpg"), ("v2", "Y", "Y", "DY/DY_cover/v2.jpg")],
        torn="u2,v1,",
    ),
    "pixelrec": Published(
        files={
            "interaction.csv": lines("item_id,user_id,timestamp", "i2,u1,1605059546", "i1,u1,1605059545"),
            "item_info.csv": lines(
                "item_id,view_number,comment_number,title_en,title,description,tag", 'i1,5,6,"A, b",题,,music'
            ),
            "covers/i1.jpg": "",
        },
        clicks={"u1": ["i1", "i2"]},
        items=[("i1", "A, b", "题", None, "music", "covers/i1.jpg")],
        torn="i1,u1",
    ),
    "mind": Published(
        files={
            "MINDsmall_train/behaviors.tsv": lines(
                "1\tU1\t11/15/2019 10:22:32 AM\tN3 N1\tN2-1 N4-0",
                "2\tU1\t11/13/2019 8:36:57 PM\tN3 N1\tN4-1 N1-0",
                "3\tU2\t11/12/2019 1:00:00 AM\t\tN1-1",
            ),
            "MINDsmall_train/news.tsv": lines(
                'N1\tsports\tgolf\tThe "Open"\tText.\thttps://x/N1\t[]\t[]',
                "N2\tnews\tworld\tTwo\t\thttps://x/N2\t[]\t[]",
            ),
            "MINDsmall_dev/behaviors.tsv": lines("1\tU1\t11/15/2019 11:00:00 PM\tN3 N1\tN3-1 N2-0"),
            "MINDsmall_dev/news.tsv": lines("N2\tnews\tworld\tTwo\t\thttps://x/N2\t[]\t[]"),
        },
        clicks={"U1": ["N3", "N1", "N4", "N2", "N3"], "U2": ["N1"]},
        items=[("N1", 'The "Open"', "sports", "golf", "Text."), ("N2", "Two", "news", "world", None)],
        torn="4\tU2\t11/12/2019 1:00:00 AM",
    ),
}
