"""What the formats of single data sets ask for: columns in another order, ratings alone, rows without users."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ppr_dist import convert as command
from ppr_dist import library
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.prepare.sources import named_errors
from ppr_dist.data.readers import READERS
from ppr_dist.data.readers.base import seconds_or_milliseconds
from ppr_dist.data.readers.convert import Converted, convert
from ppr_dist.errors import UserError
from tests.click_logs import sequences
from tests.published_data import PUBLISHED, TTL_FILES, lines


def read(name: str, tmp_path: Path, *, min_rating: float | None = None, **files: str) -> tuple[Converted, pd.DataFrame]:
    """Read the example of ``name`` with the text of some ``files``, by the end of their name, changed."""
    raw, out = tmp_path / "raw", tmp_path / "log"
    PUBLISHED[name].write(raw)
    for end, text in files.items():
        (file,) = [each for each in raw.rglob("*") if each.stem.endswith(end)]
        file.write_text(text)
    result = convert(name, READERS[name], raw, out, min_rating=min_rating)
    return result, pq.read_table(out / "interactions.parquet").to_pandas()


def read_only(name: str, tmp_path: Path, **files: str) -> pd.DataFrame:
    """Read these files alone; in their names __ stands for the point."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for file, text in files.items():
        (raw / file.replace("__", ".")).write_text(text)
    convert(name, READERS[name], raw, tmp_path / "log", overwrite=True)
    return pq.read_table(tmp_path / "log" / "interactions.parquet").to_pandas()


def test_ninerec_columns_are_told_apart_by_the_item_file(tmp_path: Path) -> None:
    pairs = PUBLISHED["ninerec"].files["DY/DY_pair.csv"].splitlines()
    user, item, time = zip(*(line.split(",") for line in pairs), strict=True)
    swapped = lines(*(f"{i},{u},{t}" for u, i, t in zip(user, item, time, strict=True)))
    _, frame = read("ninerec", tmp_path, DY_pair=swapped)
    assert frame.user_id.tolist() == list(user)
    assert frame.item_id.tolist() == list(item)


@pytest.mark.parametrize("pairs", [lines("u1,x1,5", "u2,x2,6"), lines("v1,v2,5", "v2,v1,6")])
def test_ninerec_columns_that_the_item_file_does_not_tell_apart_are_refused(pairs: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DY_pair\.csv: column 1 holds \d items that .* column 2 \d: which is it\?"):
        read("ninerec", tmp_path, DY_pair=pairs)


def test_ninerec_without_times_is_read_in_the_order_of_its_sequences(tmp_path: Path) -> None:
    items = lines("v2,Zwei,Two", "v10,Zehn,Ten")
    pairs, sequences_ = lines("u1,v2", "u1,v10"), lines("u1\tv10 v2 v10", "u2\tv2")
    frame = read_only("ninerec", tmp_path, QB_item__csv=items, QB_pair__csv=pairs, QB_behaviour__tsv=sequences_)
    assert frame.values.tolist() == [["u1", "v10", 0], ["u1", "v2", 1], ["u1", "v10", 2], ["u2", "v2", 0]]
    (tmp_path / "raw" / "QB_behaviour.tsv").unlink()
    with pytest.raises(UserError, match=r"no QB_pair\.csv with times, and no QB_behaviour\.tsv in it; NineRec is pub"):
        convert("ninerec", READERS["ninerec"], tmp_path / "raw", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("amazon-2014", "ratings_Beauty__csv", lines("A1,B2,5.0,1252800000", "A1,B1,1.0,1252713600")),
        ("amazon-2018", "Beauty__csv", lines("B2,A1,5.0,1252800000", "B1,A1,1.0,1252713600")),
        (
            "amazon-2023",
            "Beauty__csv",
            lines("user_id,parent_asin,rating,timestamp", "A1,B2,5,1252800000000", "A1,B1,1,1252713600000"),
        ),
    ],
)
def test_ratings_of_amazon_have_their_years_columns(name: str, file: str, text: str, tmp_path: Path) -> None:
    frame = read_only(name, tmp_path, **{file: text})
    assert frame[["user_id", "item_id", "rating"]].values.tolist() == [["A1", "B2", 5.0], ["A1", "B1", 1.0]]
    times = frame.timestamp if name != "amazon-2023" else frame.timestamp.astype("datetime64[s]").astype(int)
    assert times.tolist() == [1252800000, 1252713600]
    assert not (tmp_path / "log" / "items.parquet").exists()


def test_lower_ratings_may_be_left_out(tmp_path: Path) -> None:
    result, frame = read("ml-1m", tmp_path, min_rating=3)
    assert (result.clicks, sorted(frame.rating)) == (2, [3.0, 5.0])
    assert result.left_out == {"clicks not rated 3 or more": 1}
    with pytest.raises(UserError, match="--min-rating: the data set has no ratings"):
        convert("tenrec", READERS["tenrec"], PUBLISHED["tenrec"].write(tmp_path / "x"), tmp_path / "y", min_rating=1)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_data(tmp_path: Path) -> None:
    for name, ends in (("cikm-2019", "user_behavior"), ("pixelrec", "interaction"), ("mind", "")):
        example = PUBLISHED[name]
        raw = tmp_path / name
        dataclasses.replace(example, files={p: t.replace("\n", "\r\n") for p, t in example.files.items()}).write(raw)
        if ends:
            (file,) = raw.glob(f"{ends}.csv")
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        log, data = tmp_path / f"{name}-log", tmp_path / f"{name}-data"
        convert(name, READERS[name], raw, log)
        prepare(str(log / "interactions.parquet"), None, data, PrepareConfig())
        assert sequences(data) == example.clicks


def test_a_missing_header_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"interaction\.csv: no column 'item_id', 'user_id', 'timestamp'; it has i1, u1, 5"
    ):
        read("pixelrec", tmp_path, interaction=lines("i1,u1,5", "i2,u1,6"))


def test_a_file_that_is_there_twice_is_said(tmp_path: Path) -> None:
    raw = PUBLISHED["tenrec"].write(tmp_path / "raw")
    (raw / "QK-article.csv").write_text("x")
    with pytest.raises(UserError, match=r"raw: holds 2 files .* \(QB-video\.csv, QK-article\.csv\); name one; Tenrec"):
        convert("tenrec", READERS["tenrec"], raw, tmp_path / "log")
    assert convert("tenrec", READERS["tenrec"], raw / "QB-video.csv", tmp_path / "log").clicks == 4


def test_one_file_says_which_of_several_is_meant_and_finds_its_companions(tmp_path: Path) -> None:
    raw = PUBLISHED["amazon-2018"].write(tmp_path / "raw")
    (raw / "Toys_5.json").write_text("")
    (raw / "meta_Toys.json").write_text("")
    convert("amazon-2018", READERS["amazon-2018"], raw / "All_Beauty_5.json", tmp_path / "log")
    assert pq.read_table(tmp_path / "log" / "items.parquet")["title"].to_pylist() == ["Soap"]
    (raw / "other.txt").write_text("")
    with pytest.raises(UserError, match=r"other\.txt: no ratings\.dat beside it; MovieLens 1M is published"):
        convert("ml-1m", READERS["ml-1m"], raw / "other.txt", tmp_path / "other")


def test_a_full_disk_is_not_said_to_be_the_fault_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(duckdb.IOException, match="No space left"), named_errors("data"):
        raise duckdb.IOException('IO Error: Could not write file "x": No space left on device')


def test_the_test_part_of_mind_is_refused(tmp_path: Path) -> None:
    train = PUBLISHED["mind"].files["MINDsmall_train/behaviors.tsv"]
    files = {"a/behaviors.tsv": train, "b/behaviors.tsv": "9\tU3\t11/20/2019 1:00:00 AM\tN1\tN2 N3\n", "news.tsv": ""}
    raw = dataclasses.replace(PUBLISHED["mind"], files=files).write(tmp_path / "raw")
    with pytest.raises(UserError, match="2 impressions of news end in neither -0 nor -1: name train and dev alone"):
        convert("mind", READERS["mind"], raw, tmp_path / "log")


def test_minds_clicks_of_one_impression_are_tied_and_its_history_comes_first(tmp_path: Path) -> None:
    rows = lines("1\tU1\t11/15/2019 12:30:00 AM\tN9 N1\tN2-1 N3-1", "2\tU1\t11/15/2019 12:30:00 PM\tN9 N1\tN4-1")
    frame = read_only("mind", tmp_path, behaviors__tsv=rows, news__tsv="")
    assert frame.item_id.tolist() == ["N9", "N1", "N2", "N3", "N4"]
    midnight = pd.Timestamp("2019-11-15").timestamp()
    assert frame.position.tolist() == [0, 1, midnight + 1800, midnight + 1800, midnight + 45000]


def test_rows_of_ttl_that_fit_several_users_are_left_out_and_counted(tmp_path: Path) -> None:
    result, _ = read("ttl", tmp_path)
    labels = {
        task: pq.read_table(tmp_path / "log" / f"labels.{task}.parquet").to_pylist() for task in ("click", "like")
    }
    # The like of a row with item 11 alone fits users 3 and 4. The row 13, 12 is of click and gender alone: user 5.
    assert result.left_out == {"rows of other files that fit several users": 1}
    rows = [{"user_id": user, "label": label} for user, label in ((1, 901), (1, 902), (5, 901))]
    assert sorted(labels["click"], key=lambda row: tuple(row.values())) == rows
    assert labels["like"] == []


def test_a_user_of_ttl_with_two_rows_in_one_file_has_no_value(tmp_path: Path) -> None:
    age = TTL_FILES["ColdRec/original_desen_age.csv"] + "0,0,11,12,13,,2\n"
    result, _ = read("ttl", tmp_path, desen_age=age)
    users = pq.read_table(tmp_path / "log" / "users.parquet").to_pandas().set_index("user_id")
    assert pd.isna(users.age[1])
    assert users.age[2] == 1
    # Both rows, that of click with the same items, and the like of before.
    assert result.left_out == {"rows of other files that fit several users": 4}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    assert read("ali-ec", tmp_path / "a")[0].left_out == {
        "events that are no view (cart, fav, buy)": 1,
        "views outside the 22 days": 2,
    }
    assert read("cikm-2019", tmp_path / "b")[0].left_out == {"events that are no view (fav, cart, buy)": 2}


def test_a_user_or_an_item_with_two_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raw: among the users user_id 1 has 2 rows; MovieLens 1M is published"):
        read("ml-1m", tmp_path, users=lines("1::F::1::10::48067", "1::M::56::16::1", "2::M::56::16::1"))
    with pytest.raises(UserError, match="raw: among the items item_id 100 has 2 rows; CIKM"):
        read("cikm-2019", tmp_path, item=lines("100,1,2,3", "100,1,2,4"))


def test_a_click_without_an_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raw: 1 of 2 clicks have no item_id; MovieLens 1M is published at http"):
        read("ml-1m", tmp_path, ratings=lines("1::::5::978300760", "1::661::3::978300000"))


def test_seconds_and_milliseconds_are_told_apart() -> None:
    times = duckdb.sql(
        f"SELECT {seconds_or_milliseconds('t')} FROM (VALUES (1605059546), (1605059546123)) v(t)"
    ).fetchall()
    assert [str(time) for (time,) in times] == ["2020-11-11 01:52:26", "2020-11-11 01:52:26.123000"]


def test_a_line_of_metadata_that_is_no_product_is_named(tmp_path: Path) -> None:
    raw = PUBLISHED["amazon-2014"].write(tmp_path / "raw")
    (raw / "meta_Beauty.json.gz").unlink()
    for bad in ("{'asin': 'B2'", "['B2']", "{'title': 'x'}", "__import__('os').system('touch /tmp/readers-hacked')"):
        (raw / "meta_Beauty.json").write_text(lines("{'asin': 'B1'}", bad))
        with pytest.raises(UserError, match=r"meta_Beauty\.json: line 2 is no product") as refused:
            convert("amazon-2014", READERS["amazon-2014"], raw, tmp_path / "log")
        assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_converted_one_is_not_replaced(tmp_path: Path) -> None:
    raw = PUBLISHED["ml-1m"].write(tmp_path / "raw")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"holds no converted\.json, so it is not replaced"):
        convert("ml-1m", READERS["ml-1m"], raw, tmp_path / "home", overwrite=True)
    with pytest.raises(UserError, match="lies inside --out"):
        convert("ml-1m", READERS["ml-1m"], raw, tmp_path, overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "raw"]


def test_the_command_and_the_function_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = PUBLISHED["tenrec"].write(tmp_path / "raw")
    command.main(["--from", "tenrec", str(raw), "--out", str(tmp_path / "log")])
    head, *rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{tmp_path}/log: 4 clicks of 2 users on 3 items in \d+\.\d s", head)
    assert [line.split("  ")[-1].strip() for line in rest[-2:]] == [
        "1 rows without a click",
        f"{READERS['tenrec'].terms} ({READERS['tenrec'].page})",
    ]
    result = library.convert(from_="tenrec", raw=raw, out=tmp_path / "log", overwrite=True)
    assert (result.clicks, result.users, result.items) == (4, 2, 3)
    with pytest.raises(UserError, match=r"^--from 'netflix': there is none; choose from ml-100k, ml-1m, "):
        command.main(["--from", "netflix", str(raw), "--out", str(tmp_path / "log")])
