import shutil
import subprocess
from dataclasses import replace

import pytest
from trial_records import SMALL

from moco_eval import tables
from moco_eval.tables import Entry, Grid, Layout, Row
from moco_eval.tables.typeset import latex

# All that LaTeX reads as something else, and what stands in names, cells and notes of ours.
NASTY = r"_ & % # $ { } ~ ^ \ | < > ± – − † ‡ § × é ü ß ž -- ``'' \input{x} %%"

GRID = Grid(
    groups=(("VOC", 2), ("", 1), ("COCO", 1), ("COCO", 1)),
    columns=("AP_1", "AP", "AP", "AP", "AP"),
    higher_better=(True,) * 5,
    rows=(
        Row(
            label="ours",
            entries=(
                Entry(text="57.0 ± 0.2 (3)", delta="+1.3", tone="better", bold=True),
                Entry(text="82.5", delta="−0.6", tone="worse", marks="†"),
                Entry(text="1.0", delta="+0.1"),
                Entry(text="–"),
                Entry(text=""),
            ),
        ),
        Row(label="paper", is_published=True, has_rule=True, entries=(Entry(text="5.0"),) * 5),
    ),
    notes=("† a_b.",),
)
GOLDEN = r"""% Needs \usepackage{booktabs} and \usepackage{xcolor}.
\begin{tabular}{lrrrrr}
\toprule
 & \multicolumn{2}{c}{VOC} &  & COCO & COCO \\
\cmidrule(lr){2-3} \cmidrule(lr){5-5} \cmidrule(lr){6-6}
 & AP\_1 & AP & AP & AP & AP \\
\midrule
ours & \textbf{57.0 $\pm$ 0.2 (3)} \textcolor[HTML]{0063A6}{(+1.3)} & 82.5 \textcolor[HTML]{A84300}{($-$0.6)}$^\dagger$ & 1.0 (+0.1) & -- &  \\
\midrule
\textcolor{gray}{paper} & \textcolor{gray}{5.0} & \textcolor{gray}{5.0} & \textcolor{gray}{5.0} & \textcolor{gray}{5.0} & \textcolor{gray}{5.0} \\
\bottomrule
\end{tabular}

\par\medskip
{\footnotesize
\begin{tabular}{@{}p{\linewidth}@{}}
$^\dagger$ a\_b. \\
Differences of at least half a point are coloured: blue is better, orange is worse. \\
\end{tabular}
}
"""  # noqa: E501


def nasty(name):
    entry = Entry(text=name, delta=name, tone="better", bold=True, marks="†‡§*", value=1.0)
    return Grid(
        title=name,
        corner=name,
        groups=((name, 1), (name, 2)),
        columns=(name,) * 3,
        higher_better=(True,) * 3,
        rows=(
            Row(label=name, entries=(entry,) * 3),
            Row(label=name, entries=(entry,) * 3, is_published=True, has_rule=True),
        ),
        notes=(name, f"Long {name} " * 80),
    )


def test_a_grid_is_typeset_to_the_letter():
    assert latex(GRID) == GOLDEN


def test_a_title_makes_it_a_float_with_a_caption():
    text = latex(replace(GRID, title="What & how"))
    assert "\\begin{table}\n\\centering\n\\caption{What \\& how}\n\\begin{tabular}" in text
    assert text.endswith("}\n\\end{table}\n")


def test_a_grid_without_groups_has_one_line_of_headings():
    text = latex(replace(GRID, groups=()))
    assert "\\toprule\n & AP\\_1 & AP & AP & AP & AP \\\\\n\\midrule" in text
    assert "cmidrule" not in text


def test_names_are_escaped_and_no_character_of_theirs_becomes_a_command():
    # A private character would become \textbf{ and break the braces.
    text = latex(nasty("a_b & 50% #1 $x^2 \ue001 \ue002"))
    # In the usual font they are a dash and turned marks.
    assert r"\textbar{} \textless{}i\textgreater{}" in latex(nasty("| <i>"))
    assert r"a\_b \& 50\% \#1 \$x\textasciicircum 2" in text
    assert text.count("{") == text.count("}")


def test_hyphens_stay_hyphens_and_a_leading_bracket_is_no_option_of_the_line_before():
    text = latex(nasty("[x] --set"))
    assert "{}[x] -{}-set & " in text
    assert "\n[x]" not in text
    assert "{}*starred" in latex(nasty("*starred"))


def test_letters_that_pdflatex_lacks_are_announced():
    assert "% Has 字 漢: for XeLaTeX or LuaLaTeX with a font of them." in latex(nasty("漢字"))
    assert "% Has" not in latex(nasty(NASTY))


@pytest.fixture
def compiled(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (texlive-latex-recommended)")

    def compile_latex(*texts):
        page = tmp_path / "page.tex"
        page.write_text(
            "\\documentclass{article}\n\\usepackage{booktabs}\n\\usepackage{xcolor}\n"
            "\\begin{document}\n" + "\n\\clearpage\n".join(texts) + "\\end{document}\n"
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", page.name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        log = done.stdout.decode(errors="replace")
        assert done.returncode == 0, "\n".join(log.splitlines()[-30:])
        assert "LaTeX Error" not in log
        return (tmp_path / "page.pdf").read_bytes()

    return compile_latex


def test_latex_compiles_whatever_the_names_are(compiled):
    whole = tables.table(SMALL, Layout(baseline="Random", title="T", cost=("wall_s",)))
    names = (NASTY, "[x] y", "*z", "\ue001{", "", "x" * 300)
    texts = [latex(nasty(name)) for name in names]
    assert compiled(latex(GRID), tables.render(whole, "latex"), *texts).startswith(b"%PDF")
