"""TTL (ColdRec) of PeterRec (SIGIR 2020) and Conure (SIGIR 2021), PPR's QQBrowser: CSV without headers or user ids.

*pretrain*.csv: a user's items, oldest first, zeros before them up to one length. The others have such a row too, then
an empty field and what is to be predicted: *finetune_click*.csv and *finetune_like*.csv items of another catalogue,
*age.csv, *gender.csv and *lifestatus.csv a value (formats: Conure's data_loader_t1.py and data_loader_neg.py). Each
item of the row is a click; the items of the other catalogue are no clicks but labels, in labels.click.parquet and
labels.like.parquet (user_id, label).

There are no user ids, so a user is found by the row: every row of *pretrain*.csv is a user, and a row of another file
is the user with the same items where each file has such a row once at most, a user of its own where *pretrain*.csv
has none. Rows that fit several users are left out and counted.
"""

from __future__ import annotations

from pathlib import Path

from ppr_dist.data.prepare.sources import literal, named_errors, scalars
from ppr_dist.data.readers.base import Log, Raw, Reader
from ppr_dist.errors import UserError

ATTRIBUTES = ("age", "gender", "lifestatus")
TARGETS = ("click", "like")


class TTL(Reader):
    title = "TTL (ColdRec)"
    page = "https://github.com/fajieyuan/SIGIR2021_Conure"
    terms = "its authors ask to be cited; no licence is stated"

    def read(self, raw: Raw) -> Log:
        files = {"pretrain": raw.file("*pretrain*.csv")}
        for task in TARGETS:
            files[task] = raw.file(f"*finetune_{task}*.csv")
        for name in ATTRIBUTES:
            files[name] = raw.file(f"*{name}.csv")
        with named_errors(str(raw.path)):
            raw.con.execute("CREATE TABLE lines(file VARCHAR, row BIGINT, items VARCHAR, target VARCHAR)")
            for task, file in files.items():
                self._load(raw, task, file)
            _number_users(raw)
        attributes = ", ".join(
            f"max(CASE WHEN file = '{name}' THEN nullif(TRY_CAST(target AS BIGINT), 0) END) AS {name}"
            for name in ATTRIBUTES
        )
        clicks = "SELECT user_id, string_split(items, ',') AS items FROM people"
        label = "SELECT user_id, unnest(string_split(target, ','))::BIGINT AS label FROM owned WHERE file = '{}'"
        return Log(
            interactions="SELECT user_id, unnest(items)::BIGINT AS item_id, unnest(range(len(items))) AS position"
            f" FROM ({clicks})",
            users=f"SELECT user_id, {attributes} FROM people LEFT JOIN owned USING (user_id)"
            " GROUP BY user_id ORDER BY user_id",
            more={f"labels.{task}": label.format(task) for task in TARGETS},
            left_out={"rows of other files that fit several users": "SELECT count(*) FROM lines WHERE several"},
        )

    def _load(self, raw: Raw, task: str, file: Path) -> None:
        """Add a file to ``lines``: the row's items without the zeros before them, and what stands behind them."""
        # One field a line: no byte 1 stands in a text file.
        whole = raw.csv(file, {"line": "VARCHAR"}, delim="\x01", quote="")
        # Items, then (but in pretrain) an empty field, and one value or several.
        target = "" if task == "pretrain" else ",,[0-9]+" + ("(,[0-9]+)*" if task in TARGETS else "")
        (wrong,) = scalars(
            raw.con,
            "SELECT coalesce(min(row), 0) FROM (SELECT line, row_number() OVER () AS row"
            f" FROM {whole}) WHERE NOT regexp_full_match(line, '[0-9]+(,[0-9]+)*{target}')",
        )
        if wrong:
            form = "items" if task == "pretrain" else "items, an empty field, and what is to be predicted"
            raise UserError(f"{file}: line {wrong} is not {form}, as numbers with commas between")
        items = "regexp_replace(string_split(line, ',,')[1], '^(0,)*', '')"
        raw.con.execute(
            f"INSERT INTO lines SELECT {literal(task)}, row_number() OVER (), {items}, string_split(line, ',,')[2]"
            f" FROM {whole} WHERE NOT regexp_full_match({items}, '0?')"
        )


def _number_users(raw: Raw) -> None:
    """Fill ``people(user_id, items)`` and ``owned(user_id, file, target)``; mark the ``lines`` that fit several."""
    raw.con.execute(
        "CREATE TABLE counted AS SELECT items, max(n) = 1 AS single, bool_or(file = 'pretrain') AS trained FROM"
        " (SELECT items, file, count(*) AS n FROM lines GROUP BY items, file) GROUP BY items"
    )
    raw.con.execute(
        "CREATE TABLE people AS SELECT row AS user_id, items FROM lines WHERE file = 'pretrain' ORDER BY row"
    )
    raw.con.execute(
        "INSERT INTO people SELECT (SELECT max(user_id) FROM people) + row_number() OVER (ORDER BY items), items"
        " FROM counted WHERE single AND NOT trained"
    )
    raw.con.execute(
        "CREATE TABLE owned AS SELECT user_id, file, target FROM lines JOIN counted USING (items)"
        " JOIN people USING (items) WHERE single AND file <> 'pretrain'"
    )
    raw.con.execute(
        "CREATE TABLE marked AS SELECT l.*, l.file <> 'pretrain' AND NOT single AS several"
        " FROM lines l JOIN counted USING (items); DROP TABLE lines; ALTER TABLE marked RENAME TO lines"
    )
