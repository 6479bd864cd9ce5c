//! Text in columns.

use crate::words::printable;

/// Rows below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    /// A remark on the row above, as wide as it is.
    Remark(String),
}

impl Table {
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![Row::Cells(heading.map(str::to_owned).to_vec())] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // An empty cell would let its neighbours look like one.
        let cells = cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(&cell) });
        self.rows.push(Row::Cells(cells.to_vec()));
    }

    pub(crate) fn remark(&mut self, text: &str) {
        self.rows.push(Row::Remark(printable(text)));
    }

    /// The text, without spaces at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let rows = self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => Some(cells),
            Row::Remark(_) => None,
        });
        let mut widths: Vec<usize> = Vec::new();
        for cells in rows {
            widths.resize(cells.len().max(widths.len()), 0);
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &Row| match row {
            Row::Remark(text) => text.lines().map(|line| format!("    {line}\n")).collect(),
            Row::Cells(cells) => {
                let padded = widths.iter().zip(cells).map(|(width, cell)| format!("{cell:<width$}  "));
                format!("{}\n", padded.collect::<String>().trim_end())
            }
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_remarks_stand_below_their_row() {
        let mut table = Table::new(["A", "LONG", "C"]);
        table.row(["äöü-1".to_owned(), String::new(), "x\x1b[31m".to_owned()]);
        table.remark("one\ntwo");
        table.row(["b".to_owned(), "longer".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "A      LONG    C\näöü-1  -       x?[31m\n    one\n    two\nb      longer  -\n"
        );
    }
}
