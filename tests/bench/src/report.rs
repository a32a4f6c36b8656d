//! The table: figure, goal, verdict.

use std::fmt::{self, Write as _};

use crate::measure::Spread;

/// What the figure of a row must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// No goal: the figure stands there to be compared.
    None,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) benchmark: String,
    /// What is divided by what, or the unit.
    pub(crate) measure: String,
    pub(crate) goal: Goal,
    /// `None`: it could not be measured, and `measure` says why.
    pub(crate) figure: Option<Spread>,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a row, and shows it at once.
    pub(crate) fn add(
        &mut self,
        benchmark: impl Into<String>,
        measure: impl Into<String>,
        goal: Goal,
        figure: impl Into<Option<Spread>>,
    ) {
        let row = Row {
            benchmark: benchmark.into(),
            measure: measure.into(),
            goal,
            figure: figure.into(),
        };
        eprintln!("  {row}");
        self.rows.push(row);
    }

    /// The rows that are shown, in Markdown with its columns aligned; a benchmark's name stands once.
    pub(crate) fn table(&self, is_shown: impl Fn(&Row) -> bool) -> String {
        let head = ["benchmark", "measured", "figure", "goal"].map(str::to_owned);
        let mut cells = vec![head];
        let mut above = "";
        for row in self.rows.iter().filter(|row| is_shown(row)) {
            let mut these = row.cells();
            if row.benchmark == above {
                these[0].clear();
            }
            above = &row.benchmark;
            cells.push(these);
        }
        let widths: [usize; 4] = std::array::from_fn(|column| {
            let lengths = cells.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        });
        let mut table = String::new();
        for (number, row) in cells.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(table, "| {cell:width$} ");
            }
            table.push_str("|\n");
            if number == 0 {
                for width in widths {
                    let _ = write!(table, "|{}", "-".repeat(width + 2));
                }
                table.push_str("|\n");
            }
        }
        table
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let figure = self.figure.map(|figure| figure.to_string());
        let verdict = match self.goal {
            Goal::None => String::new(),
            goal => format!("{goal}: {}", self.verdict()),
        };
        [
            self.benchmark.clone(),
            self.measure.clone(),
            figure.unwrap_or_else(|| "not measured".to_owned()),
            verdict,
        ]
    }

    /// Whether the figure is what it must be.
    fn verdict(&self) -> &'static str {
        let Some(figure) = self.figure else {
            return "not measured";
        };
        let holds = |value: f64| match self.goal {
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
            Goal::None => true,
        };
        let (least, most) = figure.surely;
        let certain = holds(least) == holds(most);
        match (holds(figure.median), certain) {
            (true, true) => "met",
            (true, false) => "met, within the noise",
            (false, true) => "missed",
            (false, false) => "missed, within the noise",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [benchmark, measure, figure, _] = self.cells();
        let (goal, verdict) = (self.goal, self.verdict());
        write!(
            f,
            "{benchmark}: {measure} = {figure}, goal {goal}: {verdict}"
        )
    }
}
