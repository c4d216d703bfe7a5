"""Tables from committed CSV files, for documents and papers."""

import pytest

from experiments import table
from experiments.learning_curve.values import Value, write_table
from experiments.report.text_tables import Table, latex, markdown, read
from experiments.table import TableConfig
from fps_pretrain.common.errors import UserError
from tests.conftest import assert_refused

SUMMARY = """arm,seeds,final_accuracy,final_std,best_accuracy,best_std,mean_over_rounds,difference,difference_low,\
difference_high,mean_difference,mean_difference_low,mean_difference_high,seconds_per_round
random,3,0.30413,0.02726,0.31927,0.01836,0.26620,,,,,,,19.1
fps_r20,3,0.46233,0.04187,0.46467,0.04140,0.38059,0.15820,0.10997,0.20643,0.11439,nan,nan,18.2
"""


@pytest.fixture
def results(tmp_path):
    (tmp_path / "summary.csv").write_text(SUMMARY)
    (tmp_path / "tuning.csv").write_text(
        "init,lr,seed,val_accuracy,chosen\nrandom,0.1,0,0.3,yes\nrandom,0.01,0,0.25,no\nrandom,1,0,,failed\n"
    )
    return tmp_path


def test_a_comparison_as_markdown(results, capsys):
    assert table.main(TableConfig((results,))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| fps_r20 | 3 | 46.2% ± 4.2 | 46.5% | 38.1% | +15.8 [+11.0, +20.6] | +11.4 |"
    assert lines[2].endswith("| 26.6% | | |")
    assert lines[5:] == ["| lr | 0.01 | 0.1 | 1 |", "|---|---|---|---|", "| random | 25.0% | 30.0% ✓ | |"]


def test_what_fine_tuning_came_to_stands_beside_it(tmp_path):
    added = ("client_mean,fine_tuned_mean,fine_tuned_difference,fine_tuned_difference_low,fine_tuned_difference_high",)
    added += ("0.25,0.69355,,,", "0.43,0.64722,-0.04634,-0.27042,0.17775")
    lines = [f"{line},{more}" for line, more in zip(SUMMARY.splitlines(), added, strict=True)]
    (tmp_path / "summary.csv").write_text("\n".join(lines) + "\n")
    (found,) = read([tmp_path])
    assert found.header[-3:] == ("clients", "clients, fine-tuned", "fine-tuned − random")
    assert found.rows[0][-3:] == ("25.0%", "69.4%", "")
    assert found.rows[1][-3:] == ("43.0%", "64.7%", "-4.6 [-27.0, +17.8]")


def test_latex_takes_any_name():
    text = latex(Table(("a_b & c", "50%"), (("~^\\{}", "1 ± 2"),)))
    assert text.splitlines()[2] == r"a\_b \& c & 50\% \\"
    assert text.splitlines()[4] == r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\} & 1 $\pm$ 2 \\"
    assert markdown(Table(("a|b", "c"), (("", "d*"),))).splitlines() == [r"| a\|b | c |", "|---|---|", r"| | d\* |"]


def test_curves_of_several_files_are_one_table(tmp_path):
    def value(label, pairs, measure, seed, lr, accuracy, name=""):
        return Value(label, pairs, "x.pt", f"{label}{pairs}{name}", measure, seed, lr, accuracy)

    (tmp_path / "b").mkdir()
    random = [value("random", 0, "linear", seed, 0.0, 0.3 + seed / 100) for seed in range(3)]
    many = [value("m", pairs, "linear", -1, 0.0, pairs / 100) for pairs in (50, 20)]
    many += [value("m", 20, "federation", 0, lr, 0.4 + lr) for lr in (0.1, 0.2)]
    few = [value("n", 20, "linear", -1, 0.0, accuracy, accuracy) for accuracy in (0.26, 0.25)]
    few += [value("n", 20, "federation", 0, 0.1, 0.5, 0.26)]
    write_table(tmp_path / "curve.csv", [*random, *many])
    write_table(tmp_path / "b" / "curve.csv", few)
    (found,) = read([tmp_path, tmp_path / "b"], against="m")
    assert found.header == ("encoder", "pairs", "kNN", "linear", "linear − m", "federation")
    assert found.rows == (
        ("random", "0", "", "31.0% (30.0 to 32.0)", "", ""),
        ("m", "20", "", "20.0%", "", "60.0%"),
        ("m", "50", "", "50.0%", "", ""),
        ("n", "20", "", "26.0%, 25.0%", "+5.5", "50.0%*"),
    )
    (found,) = read([tmp_path], pairs=(50,))
    assert [row[1] for row in found.rows] == ["0", "50"]
    with pytest.raises(UserError, match="'nobody'"):
        read([tmp_path], against="nobody")
    write_table(tmp_path / "b" / "curve.csv", [random[0], *few])  # it stands in both, and counts once
    (again,) = read([tmp_path, tmp_path / "b"], against="m")
    assert read([tmp_path], against="m")[0].rows[0] == again.rows[0]
    write_table(tmp_path / "b" / "curve.csv", [value("random", 0, "linear", 0, 0.0, 0.9)])
    with pytest.raises(UserError, match="another linear accuracy of 'random'"):
        read([tmp_path, tmp_path / "b"])


def test_labels_are_compared_at_the_same_number_of_pairs(tmp_path):
    measured = (
        ("random", 0, 0.3), ("a", 10, 0.5), ("a", 100, 0.7), ("b", 10, 0.55), ("b", 100, 0.72), ("b", 1000, 0.8),
    )  # fmt: skip
    values = [Value(label, n, "x.pt", f"{label}{n}", "linear", -1, 0.0, accuracy) for label, n, accuracy in measured]
    write_table(tmp_path / "curve.csv", values)

    def column(**arguments):
        (found,) = read([tmp_path], **arguments)
        return [row[-1] for row in found.rows]

    assert column(against="a") == ["", "", "", "+5.0", "+2.0", ""]
    assert column(against="random") == ["", "+20.0", "+40.0", "+25.0", "+42.0", "+50.0"]
    assert column(against="a", pairs=(10,)) == ["-20.0", "", "+5.0"]  # random weights beside the one budget


def test_the_tables_of_a_document_are_written_anew(results):
    document = results / "README.md"
    document.write_text("a\n<!-- table: tuning.csv -->\nold\n<!-- end of table -->\nb\n")
    assert table.main(TableConfig(update=document)) == 0
    first = document.read_text()
    assert first.splitlines()[:4] == ["a", "<!-- table: tuning.csv -->", "", "| lr | 0.01 | 0.1 | 1 |"]
    assert first.endswith("| random | 25.0% | 30.0% ✓ | |\n\n<!-- end of table -->\nb\n")
    assert table.updated(document) == first


def test_what_stands_between_the_tables_of_a_document_stays(results):
    document = results / "README.md"
    block = "<!-- table: tuning.csv -->\nold\n<!-- end of table -->\n"
    document.write_text(f"{block}between\n{block}after\n")
    assert table.main(TableConfig(update=document)) == 0
    lines = document.read_text().splitlines()
    assert [lines.count(line) for line in ("old", "between", "after", "| lr | 0.01 | 0.1 | 1 |")] == [0, 1, 1, 2]


def test_rates_stand_in_the_order_of_their_size(tmp_path):
    rows = "".join(f"random,{rate},0,0.{number},no\n" for number, rate in enumerate(("10", "5e-05", "2", "0.1"), 1))
    (tmp_path / "tuning.csv").write_text(f"init,lr,seed,val_accuracy,chosen\n{rows}")
    (found,) = read([tmp_path])
    assert found.header == ("lr", "5e-05", "0.1", "2", "10")
    assert found.rows == (("random", "20.0%", "40.0%", "30.0%", "10.0%"),)


def test_bad_input_is_one_line(run_script, tmp_path):
    (tmp_path / "summary.csv").write_text("a,b\n1,2\n")
    for arguments, word in (
        ([], "name results"),
        ([tmp_path / "nothing"], "nothing"),
        ([tmp_path], "not a table"),
        (["--update", tmp_path / "x.md"], "x.md"),
    ):
        assert_refused(run_script("experiments.table", *arguments), word)
