"""Any table to points: every format reads the same, every refusal is one line with its fix, and no
row goes without being listed.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stepladder.analysis.fit.fit import fit
from stepladder.analysis.records.final_points import final_points
from stepladder.analysis.records.load import load
from stepladder.analysis.tables.points import read_points
from stepladder.configs.core.errors import UserError
from tests.support import published_rows
from tests.support import synthetic_records as records


def good(**changes) -> pd.DataFrame:
    """12 points of a law; `changes` are {column: {row: entry}}."""
    n, d = (v.ravel() for v in np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e9, 3e9, 1e10]))
    table = pd.DataFrame(
        {"N": n, "D": d, "loss": 1.7 + 400 / n**0.34 + 400 / d**0.28, "family": ["a", "b"] * 6}
    )
    for column, entries in changes.items():
        table[column] = table[column].astype(object)
        for row, entry in entries.items():
            table.loc[row, column] = entry
    return table


def refusal(source, *args, **options) -> str:
    """The message, which must be one line."""
    with pytest.raises(UserError) as caught:
        read_points(source, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accounted(points, rows: int) -> None:
    """Every row of the source is either a point or listed, once."""
    assert sorted([*points.frame.index, *points.excluded["row"]]) == list(range(rows))
    assert list(points.counts.values())[-1] == len(points.frame)
    assert points.counts["read"] == rows


def _compressed(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


WRITERS = {
    "t.csv": lambda t, p: t.to_csv(p, index=False),
    "t.csv.gz": lambda t, p: t.to_csv(p, index=False),
    "t.TSV": lambda t, p: t.to_csv(p, index=False, sep="\t"),
    "bom.csv": lambda t, p: t.to_csv(p, index=False, encoding="utf-8-sig"),
    "t.parquet": lambda t, p: t.to_parquet(p),
    "rows.json": lambda t, p: p.write_text(json.dumps(t.to_dict("records"))),
    "columns.json": lambda t, p: p.write_text(json.dumps(t.to_dict("list"))),
    "t.json.gz": lambda t, p: _compressed(p, json.dumps(t.to_dict("records"))),
    "t.jsonl": lambda t, p: p.write_text("\n".join(map(json.dumps, t.to_dict("records"))) + "\n\n"),
    "t.ndjson.gz": lambda t, p: _compressed(p, "\n".join(map(json.dumps, t.to_dict("records")))),
}


def test_a_line_of_json_ends_at_a_newline_only(tmp_path):
    rows = good().assign(note="one\u2028two\x85three").to_dict("records")
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "t.jsonl").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert len(read_points(tmp_path / "t.jsonl").frame) == len(rows)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_the_same(tmp_path, name):
    table = good()
    WRITERS[name](table, tmp_path / name)
    points = read_points(tmp_path / name, group="family")
    assert list(points.frame) == ["N", "D", "loss", "group"]
    np.testing.assert_allclose(
        points.frame[["N", "D", "loss"]].to_numpy(),
        table[["N", "D", "loss"]].to_numpy(),
        rtol=1e-14,
    )
    assert points.frame["group"].tolist() == table["family"].tolist()
    accounted(points, 12)
    assert "12 points" in str(points) and name in str(points)


def test_a_dataframe_keeps_its_own_index_and_is_not_changed():
    table = good().set_index(pd.Index(range(100, 112)))
    before = table.copy()
    points = read_points(table, where="N>2e7")
    assert points.frame.index.tolist() == [i for i in table.index if table.loc[i, "N"] > 2e7]
    pd.testing.assert_frame_equal(table, before)
    copy = points.to_frame()
    copy["loss"] = 0.0
    assert (points.frame["loss"] > 0).all()
    assert fit(points.frame, unidentified="report").points == 9


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.xlsx", "x", ["unknown extension '.xlsx'", ".csv", "workdir"]),
        ("t.csv", "", ["unreadable as .csv"]),
        ("t.csv", "N,D,loss\n", ["no rows"]),
        ("t.csv", "N,D,loss\n1,2,3,4\n", ["unreadable as .csv"]),
        ("t.csv", "N,D,loss\n1,2,3\n1,2,3,4\n", ["unreadable as .csv"]),
        ("t.csv", "N,D,loss,loss\n1,2,3,4\n", ["column 'loss' appears 2 times", "rename"]),
        ("t.csv", "N;D;loss\n1;2;3\n", ["separated by ';', not ','"]),
        ("t.csv", b"N,D,loss\n\xff\xfe,1,2\n", ["unreadable as .csv"]),
        ("t.csv.gz", "N,D,loss\n1,2,3\n", ["unreadable as .csv"]),
        ("t.csv.gz", gzip.compress(b"N,D,loss\n1,2,3\n", mtime=0)[:-9], ["unreadable as .csv"]),
        ("t.json", "{", ["unreadable as .json"]),
        ("t.json", "5", ["neither a list of objects"]),
        ("t.json", "[]", ["no rows"]),
        ("t.json", "[[1, 2]]", ["one object a row"]),
        ("t.json", '{"N": [1, 2], "D": [1]}', ["unreadable as .json"]),
        ("t.jsonl", '{"N": 1}\n{"N": \n', ["line 2"]),
        ("t.jsonl", "[1]\n", ["line 1: not an object"]),
        ("t.parquet", "PAR1 no", ["t.parquet"]),
    ],
)
def test_unreadable_files_are_refused_by_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(tmp_path / name)
    assert all(part in message for part in [*said, "source=", name])


def test_a_missing_file_a_missing_workdir_and_an_empty_one_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "no.csv")
    assert "does not exist" in refusal(tmp_path / "no")
    assert "no decayed evaluation" in refusal(tmp_path)
    assert "download it first" in refusal("https://example.org/t.csv")
    assert "source=5: of type int, not a table" in refusal(5)
    assert "no rows" in refusal(pd.DataFrame({"N": [], "D": [], "loss": []}))


# --- columns


def test_columns_by_mapping_and_a_typo_gets_the_nearest_name():
    table = good().rename(columns={"N": "Model Size", "D": "seen", "loss": "err"})
    points = read_points(table, columns={"N": "Model Size", "D": "seen"}, output="err")
    pd.testing.assert_frame_equal(points.frame, good()[["N", "D", "loss"]].rename_axis("row"))
    assert "loss is 'err'" in points.notes
    assert points.frame.equals(
        read_points(table, columns={"N": "Model Size", "D": "seen", "loss": "err"}).frame
    )
    message = refusal(table, columns={"N": "Model Sise", "D": "seen"}, output="err")
    assert "columns=N=Model Sise" in message and "did you mean 'Model Size'?" in message
    assert "nothing here is called 'M'" in refusal(good(), columns={"M": "N"})
    assert "columns=N=loss: also read as loss" in refusal(good(), columns={"N": "loss"})
    assert len(read_points(good().rename(columns={"N": 0}), columns={"N": 0}).frame) == 12
    assert "columns: the DataFrame has no column of lr" in refusal(good(), inputs=("N", "D", "lr"))
    assert "did you mean 'family'?" in refusal(good(), group="famly")


@pytest.mark.parametrize(
    "names",
    [
        ("params", "tokens", "val_loss"),
        ("Model Size", "Training Tokens", "Loss"),
        ("model_size", "D", "loss"),
    ],
)
def test_usual_names_are_found_and_said(names):
    points = read_points(good().rename(columns=dict(zip(("N", "D", "loss"), names))))
    assert len(points.frame) == 12
    for canonical, name in zip(("N", "D", "loss"), names):
        assert (f"{canonical} is column {name!r}" in points.notes) == (canonical != name)


def test_usual_names_are_taken_only_when_unambiguous():
    table = good().rename(columns={"N": "params"}).assign(model_size=1.0)
    message = refusal(table)
    assert "'params' and 'model_size'" in message and "say columns N=" in message
    assert len(read_points(table, columns={"N": "params"}).frame) == 12
    points = read_points(good().assign(tokens=1.0))  # the exact name wins, and says so
    assert "D is column 'D', not 'tokens'" in points.notes


def test_n_d_and_c_follow_from_the_other_two():
    table = good().assign(**{"Training FLOP": lambda t: 6 * t["N"] * t["D"]})
    without = table.drop(columns="D")
    points = read_points(without)
    np.testing.assert_allclose(points.frame["D"], table["D"])
    assert "D = C / (6 N)" in points.notes
    np.testing.assert_allclose(read_points(table.drop(columns="N")).frame["N"], table["N"])
    points = read_points(good(), inputs="C")
    np.testing.assert_allclose(points.frame["C"], table["Training FLOP"])
    assert "C = 6 N D" in points.notes
    message = refusal(good().drop(columns="D"))
    assert "no column of D" in message and "C and N to derive it from" in message
    without.loc[3, "N"] = 0.0  # the cause is named, not the infinity it gives
    assert "column 'N'=0.0: not positive (row 3" in refusal(without)


def test_derived_columns_and_their_mistakes():
    table = good().rename(columns={"D": "steps"}).assign(batch=2.0)
    points = read_points(table, derive={"D": "steps * batch"})
    np.testing.assert_allclose(points.frame["D"], 2 * good()["D"])
    assert "D = steps * batch" in points.notes
    points = read_points(
        table.rename(columns={"N": "Model Size"}), derive={"D": "6 * N + `Model Size`"}
    )
    np.testing.assert_allclose(points.frame["D"], 7 * good()["N"])
    for expression in (
        "stps * 2",
        "steps +",
        "@table",
        "family * 1.5",
        "steps = 3",
        "__import__('os')",
    ):
        message = refusal(table, derive={"D": expression})
        assert f"derive=D={expression}" in message and "use columns of" in message


def test_units_by_name_and_by_factor():
    table = good()
    scaled = table.assign(N=table["N"] / 1e6, D=table["D"] / 1e9, loss=np.exp(table["loss"]))
    points = read_points(scaled, units={"N": "millions", "D": 1e9, "loss": "perplexity"})
    np.testing.assert_allclose(points.frame.to_numpy(), table[["N", "D", "loss"]].to_numpy())
    assert {"N is read in millions", "loss is read in perplexity"} <= set(points.notes)
    assert "did you mean 'millions'?" in refusal(table, units={"N": "milions"})
    assert "not a positive factor" in refusal(table, units={"N": -1})
    assert "nothing here is called 'M'" in refusal(table, units={"M": 5})
    assert any(
        "say units D=billions" in note
        for note in read_points(scaled, units={"N": "millions"}).notes
    )
    assert any(
        "perplexities?" in note for note in read_points(table.assign(loss=table["loss"] + 20)).notes
    )


# --- filters


def test_filters_count_and_list_what_they_leave_out():
    points = read_points(good(), where=["D>=3e9", "family=a"], drop_highest=1)
    accounted(points, 12)
    assert dict(points.counts) == {
        "read": 12,
        "after D>=3e9": 8,
        "after family=a": 4,
        "after drop_highest=1": 3,
    }
    reasons = points.excluded.set_index("row")["reason"]
    assert (
        reasons[0] == "where D>=3e9: D is 1000000000.0"
        and reasons[5] == "where family=a: family is b"
    )
    assert "one of the 1 highest losses" in reasons[4]
    assert "left out, where D>=3e9: rows 0, 1, 2, 3" in str(points)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("N<3e7", 3),
        ("N<=3e7", 6),
        ("N>3e7", 6),
        ("N >= 3e7", 9),
        ("N=1e8", 3),
        ("N==1e8", 3),
        ("N!=1e8", 9),
        ("family='a'", 6),
        ("family!=a", 6),
        ("C>1e18", 6),
        ("done=True", 6),
    ],
)
def test_every_comparison(expression, rows):
    table = good().assign(done=[True, True, False, False] * 3)
    points = read_points(table, inputs="D", where=expression)
    assert len(points.frame) == rows
    accounted(points, 12)


def test_filter_mistakes():
    assert "did you mean 'family'?" in refusal(good(), where="famly=a")
    assert "not <column><op><value>" in refusal(good(), where="loss")
    assert "not <column><op><value>" in refusal(good(), where="1<loss<5")
    assert "holds text" in refusal(good(), where="family<5")
    assert "give a number" in refusal(good(), where="N=large")
    message = refusal(good(), where="family=c")
    assert "no row of the DataFrame has it" in message and "known: a, b" in message
    message = refusal(good(), where=["N>2e7", "loss>100"])
    assert "12 read, 9 after N>2e7, 0 after loss>100" in message and "loosen" in message
    assert "0 after drop_highest=12" in refusal(good(), drop_highest=12)
    assert "drop_highest=-1" in refusal(good(), drop_highest=-1)
    assert "drop_highest=1.5" in refusal(good(), drop_highest=1.5)


def test_a_filter_does_not_hide_a_bad_value():
    """A missing loss is neither below nor above: it stays to be refused.

    Of other columns a missing entry leaves the row out, listed.
    """
    table = good(loss={2: np.nan}, family={5: None})
    assert "(row 2" in refusal(table, where="loss<50")
    points = read_points(table, where=["loss<50", "family!=b"], drop_bad=True)
    accounted(points, 12)
    assert points.excluded.set_index("row").loc[2, "reason"] == "bad value: 'loss'=nan is missing"
    assert points.excluded.set_index("row").loc[5, "reason"].startswith("where family!=b")


# --- values

BAD = [
    (np.nan, "nan: missing"),
    (None, "nan: missing"),
    (np.inf, "inf: infinite"),
    (-np.inf, "-inf: infinite"),
    (0.0, "0.0: not positive"),
    (-3.0, "-3.0: not positive"),
    ("7B", "'7B': text"),
    ("1,000", "'1,000': text"),
    ("", "'': text"),
    (True, "True: text"),
    (10**400, "000...: text"),
    ([1, 2], "[1, 2]: text"),
    ("x" * 99, "...: text"),
    ("a\nb", "'a\\nb': text"),
]


@pytest.mark.parametrize("column", ["N", "D", "loss"])
@pytest.mark.parametrize(("entry", "said"), BAD, ids=[str(b[1]) for b in BAD])
def test_bad_values_are_refused_by_row_or_left_out_and_listed(column, entry, said):
    table = good()
    table[column] = table[column].astype(object)
    table.at[4, column] = entry
    message = refusal(table)
    assert (
        f"column {column!r}=" in message
        and said in message
        and "(row 4)" in message
        and "--drop-bad" in message
    )
    points = read_points(table, drop_bad=True)
    accounted(points, 12)
    assert points.excluded["row"].tolist() == [4] and points.excluded["reason"][0].startswith(
        f"bad value: {column!r}="
    )
    assert (
        points.counts["after drop-bad"] == 11
        and points.frame.dtypes[["N", "D", "loss"]].eq(float).all()
    )


def test_bad_values_are_counted_and_an_all_bad_column_is_refused_even_when_dropped():
    assert "(row 1 and 2 more rows with bad values)" in refusal(
        good(loss={1: "x", 3: None}, N={3: -1.0, 7: 0.0})
    )
    table = good(loss=dict.fromkeys(range(12), "x"))
    assert "0 after drop-bad" in refusal(table, drop_bad=True)
    assert "column 'group'" not in refusal(good(family={6: None}), group="family")
    assert "column 'family'=None: missing (row 6" in refusal(good(family={6: None}), group="family")


def test_duplicates_are_refused_dropped_or_kept():
    table = pd.concat([good(), good().iloc[[3, 3, 5]]], ignore_index=True)
    message = refusal(table)
    assert all(
        part in message
        for part in (
            "row 12: N=3e+08",
            "row 3 (3 such rows)",
            "--drop-duplicates",
            "--keep-duplicates",
        )
    )
    points = read_points(table, duplicates="drop")
    accounted(points, 15)
    assert points.excluded["reason"].tolist() == [
        "duplicate: of row 3",
        "duplicate: of row 3",
        "duplicate: of row 5",
    ]
    kept = read_points(table, duplicates="keep")
    assert len(kept.frame) == 15 and len(kept.excluded) == 0
    assert "use one of refuse, drop, keep" in refusal(table, duplicates="no")
    table.loc[12:, "family"] = "c"  # the same point in another family is a point of that family
    assert len(read_points(table.iloc[:13], group="family").frame) == 13


def test_constant_columns_are_refused():
    assert "column 'N'=1e+08: one size only in all 3 rows left; add runs" in refusal(
        good(), where="N=1e8"
    )
    assert "column 'D'=1e+09: constant in all 12 rows left; add runs with other D" in refusal(
        good().assign(D=1e9)
    )
    assert "column 'loss'=3: constant" in refusal(good().assign(loss=3.0))
    assert "one size only in all 1 rows" in refusal(good().iloc[:1])


@pytest.mark.parametrize(("column", "divisor"), [("N", 1e6), ("D", 1e9), ("C", 1e15)])
def test_two_units_in_a_column_are_refused_unless_checked(column, divisor):
    table = good().assign(C=lambda t: 6 * t["N"] * t["D"])
    table.loc[::3, column] /= divisor
    message = refusal(table, inputs=("N", "D", "C"))
    assert (
        f"column {column!r}=" in message
        and "two units" in message
        and "--units-checked" in message
        and "(row 0)" in message
    )
    assert len(read_points(table, inputs=("N", "D", "C"), units_checked=True).frame) == 12


def test_losses_on_two_scales_are_refused_unless_checked_or_in_groups_of_their_own():
    table = good()
    table.loc[table["family"] == "b", "loss"] = np.exp(table["loss"])
    message = refusal(table)
    assert (
        "perplexity (6 rows" in message
        and "filter such as loss<" in message
        and "--units-checked" in message
    )
    assert len(read_points(table, units_checked=True).frame) == 12
    assert len(read_points(table, group="family").frame) == 12
    one = good(loss={0: 30.0})  # one outlier is no second unit
    assert len(read_points(one).frame) == 12


def test_inputs_must_be_different_names():
    for inputs in ((), ("N", "N"), ("N", "loss")):
        assert "inputs=" in refusal(good(), inputs)


# --- workdirs and public tables


def test_a_workdir_gives_its_decayed_points_and_all_exclusions(tmp_path):
    records.write_proxies(tmp_path)
    runs = load(tmp_path)
    used, left = final_points(runs)
    points = read_points(tmp_path, where="D>0")
    assert points.frame.index.tolist() == used["run_id"].tolist()
    np.testing.assert_array_equal(points.frame.to_numpy(), used[["N", "D", "loss"]].to_numpy())
    assert (
        len(points.excluded) == len(left) + len(runs.excluded)
        and points.excluded["reason"].str.startswith("undecayed").any()
    )
    other = read_points(
        tmp_path, columns={"N": "params_non_embedding"}, group="root", domain="code"
    )
    np.testing.assert_allclose(
        other.frame["N"].to_numpy(), points.frame["N"].to_numpy() - records.EMBEDDING
    )
    assert other.frame["loss"].iloc[0] != points.frame["loss"].iloc[0]
    assert "run_id" not in str(points) and f"{len(used)} points" in str(points)


def test_the_chinchilla_table_as_its_replication_reads_it():
    points = read_points(published_rows.path("chinchilla/svg_extracted_data.csv"), drop_highest=5)
    assert dict(points.counts) == {"read": 245, "after drop_highest=5": 240}
    assert points.excluded["row"].tolist() == [0, 1, 2, 3, 4]
    assert set(points.notes) == {
        "N is column 'Model Size'",
        "C is column 'Training FLOP'",
        "D = C / (6 N)",
    }
    accounted(points, 245)
