"""The published reference: complete rows, flags that follow from arithmetic, corrections separate from the print."""

import pytest

from mis_lib.results.frames import LEADERBOARD, leaderboard, published
from mis_lib.results.published import MIS_RATES, NOT_100, Published, reference_table, row_sums, select
from mis_lib.results.published import published as numbers

# The leaderboard rows that do not sum to 100, found by hand.
OFF = {
    ("Idefics3-8B", "easy"): 100.54,
    ("LLaVA-NeXT-Interleave", "real"): 101,
    ("LLaVA-OV-72B-Chat", "easy"): 99.98,
    ("LLaVA-OV-72B-Chat", "real"): 101,
    ("Qwen2-VL-7B-Instruct", "easy"): 100.12,
    ("Qwen2-VL-7B-Instruct", "real"): 99,
    ("Qwen2-VL-72B-Instruct", "real"): 111,
    ("InternVL2.5-8B", "real"): 101,
    ("InternVL2.5-78B", "real"): 101,
    ("GPT-4o", "real"): 101,
    ("Gemini-1.5-pro", "easy"): 96.18,
    ("Gemini-1.5-pro", "real"): 101,
    ("InternVL2.5-8B + MIRage", "easy"): 99.58,
}


def one(**wanted: str) -> Published:
    found = [row for row in numbers() if all(getattr(row, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_rows_that_do_not_sum_to_100_are_found_and_no_others() -> None:
    flagged = {(row.label, row.split) for row in numbers() if NOT_100 in row.flag}
    assert flagged == set(OFF)
    sums = row_sums(numbers())
    found = {
        (key[3], key[0]): total for key, total in sums.items() if (key[3], key[0]) in OFF and key[2] == "leaderboard"
    }
    assert found == OFF
    assert len(sums) == 18 * 3  # every leaderboard row has all four rates


def test_every_number_says_where_it_is_from_and_lies_between_0_and_100() -> None:
    for row in numbers():
        assert row.source and row.judge and row.model and row.method and row.benchmark, row
        assert 0 <= row.value <= 100, row
        assert row.rate.low <= row.value <= row.rate.high, row


def test_numbers_are_kept_as_printed_and_corrected_beside() -> None:
    row = one(model="Gemini-1.5-pro", split="easy", metric="rr")
    assert (row.value, row.corrected, row.flag) == (0.42, 4.24, f"{NOT_100} (96.18); differs from v3")
    swapped = [row for row in numbers() if row.flag == "swapped cells"]
    assert {(row.benchmark, row.value, row.corrected) for row in swapped} == {
        ("MMMU", 48.38, 53.33),
        ("MuirBench", 53.33, 48.38),
    }


def test_the_corrected_cells_fit_their_n() -> None:
    for row in (row for row in numbers() if row.flag == "swapped cells"):
        assert row.corrected is not None and row.n is not None
        nearest = round(row.corrected * row.n / 100)
        assert 100 * nearest / row.n == pytest.approx(row.corrected, abs=0.006)


def test_a_number_that_no_count_gives_has_no_interval() -> None:
    odd = one(model="Qwen2-VL-7B-Instruct", method="base", benchmark="FigStep", table="table 1", metric="asr")
    assert odd.value == 58.53 and not odd.fits
    assert (odd.rate.low, odd.rate.high) == (0, 100)
    fine = one(model="InternVL2.5-8B", method="MIRage", split="easy", metric="asr", table="leaderboard")
    assert (fine.rate.low, fine.rate.high) == (pytest.approx(0.09, abs=0.006), pytest.approx(0.61, abs=0.006))
    ends = published([odd, fine])[["low", "high"]]
    assert ends.notna().all(axis=1).tolist() == [False, True]  # a figure would draw 0 to 100


def test_published_rows_stand_beside_and_are_never_in_a_leaderboard_of_runs() -> None:
    frame = published()
    assert list(frame.columns[: len(LEADERBOARD)]) == list(LEADERBOARD)
    assert frame["published"].all()
    assert len(leaderboard([])) == 0 and list(leaderboard([]).columns) == list(LEADERBOARD)
    assert len(published(select(benchmark="MOSSBench"))) == 4


def test_the_sheet_has_a_line_for_each_printed_row() -> None:
    rows = [row for row in select(benchmark="MIS", split="hard") if row.table == "leaderboard"]
    sheet = reference_table(rows)
    assert len(sheet.cells) == 15
    assert list(sheet.headings[2:6]) == [metric for metric in ("asr", "hr", "rsr", "rr") if metric in MIS_RATES]
    assert sheet.cells[0][:6] == ["MIS hard", "Mantis-SIGLIP", "89.41", "0.20", "10.39", "0.00"]
    assert len(sheet.records) == 60
