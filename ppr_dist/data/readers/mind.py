"""MIND, Microsoft's news (Wu et al., ACL 2020): behaviors.tsv and news.tsv of train and dev (msnews' introduction.md).

behaviors.tsv: impression, user, time, history (news the user clicked before, oldest first), impressions (NEWS-1
clicked, NEWS-0 shown). A user's clicks are the history of the first impression, which has no times, and then what was
clicked in the impressions, by their time; those of one impression are tied, since their order is not published.
``position`` orders: 0, 1, … in the history, the time in seconds after it. The test part has no clicks and is refused.
No profiles.
"""

from __future__ import annotations

from ppr_dist.data.prepare.sources import named_errors, scalars
from ppr_dist.data.readers.base import Log, Raw, Reader, first_of_each
from ppr_dist.errors import UserError

TIME = "%m/%d/%Y %I:%M:%S %p"
"""11/15/2019 8:36:57 AM, taken for UTC: its zone is not published."""


class MIND(Reader):
    title = "MIND"
    page = "https://msnews.github.io"
    terms = "Microsoft Research Licence Terms: not commercial"

    def read(self, raw: Raw) -> Log:
        names = dict.fromkeys(("impression", "user_id", "time", "history", "shown"), "VARCHAR")
        texts = dict.fromkeys(("item_id", "category", "subcategory", "title", "abstract", "url", "a", "b"), "VARCHAR")
        rows = raw.csv(raw.some("behaviors.tsv"), names, delim="\t", quote="")
        news = raw.csv(raw.some("news.tsv"), texts, delim="\t", quote="")
        with named_errors(str(raw.path)):
            raw.con.execute(
                f"CREATE TABLE behaviors AS SELECT user_id, strptime(time, '{TIME}') AS time,"
                f" string_split(trim(history), ' ') AS history, string_split(trim(shown), ' ') AS shown FROM {rows}"
            )
            raw.con.execute("CREATE TABLE shown AS SELECT user_id, time, unnest(shown) AS news FROM behaviors")
            (unlabelled,) = scalars(raw.con, "SELECT count(*) FROM shown WHERE NOT regexp_full_match(news, '.+-[01]')")
        if unlabelled:
            raise UserError(
                f"{raw.path}: {unlabelled:,} impressions of news end in neither -0 nor -1: name train and dev alone"
            )
        # A user's history is the same in all impressions of a part, and that of dev repeats train's.
        first = (
            "SELECT user_id, history FROM behaviors WHERE history IS NOT NULL"
            " QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY time, history) = 1"
        )
        before = (
            "SELECT user_id, unnest(history) AS item_id, unnest(range(len(history))) AS position,"
            f" NULL::TIMESTAMP AS timestamp FROM ({first})"
        )
        after = (
            "SELECT user_id, regexp_replace(news, '-1$', '') AS item_id, epoch(time)::BIGINT AS position,"
            " time AS timestamp FROM shown WHERE news LIKE '%-1'"
        )
        known = "item_id, title, category, subcategory, abstract"
        return Log(
            interactions=f"{before} UNION ALL {after}",
            items=first_of_each("item_id", f"SELECT {known} FROM {news}"),
            left_out={"news shown without a click": "SELECT count(*) FROM shown WHERE news LIKE '%-0'"},
        )
