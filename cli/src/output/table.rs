//! Aligned columns.
//!
//! Owns the layout of tables: widths, gaps, which columns only `wide` shows. Never knows what a row means. Used by `output::rows`.

/// Space between columns, characters: kubectl's three reads well with upper-case headers.
const GAP: usize = 3;

/// A table: headers, and rows of as many cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    header: &'static str,
    wide: bool,
}

impl Table {
    /// A table with columns that are always shown and columns that only `wide` shows, in this order.
    pub(crate) fn new(always: &[&'static str], wide: &[&'static str]) -> Self {
        let of = |wide: bool| move |&header: &&'static str| Column { header, wide };
        Self {
            columns: always
                .iter()
                .map(of(false))
                .chain(wide.iter().map(of(true)))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Cells are in column order; an empty cell is shown as `-`, a missing one too.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells
            .into_iter()
            .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
            .collect();
        cells.resize(self.columns.len(), "-".to_owned());
        self.rows.push(cells);
    }

    /// Nothing to show.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line ended, no trailing blanks.
    pub(crate) fn render(&self, wide: bool) -> String {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&i| wide || !self.columns[i].wide)
            .collect();
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            cells
                .chain([self.columns[i].header.len()])
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = shown.iter().map(|&i| width(i)).collect();
        let line = |cell: &dyn Fn(usize) -> String| {
            let padded: String = shown
                .iter()
                .zip(&widths)
                .map(|(&i, &w)| format!("{:<1$}", cell(i), w + GAP))
                .collect();
            format!("{}\n", padded.trim_end())
        };
        let header = line(&|i| self.columns[i].header.to_owned());
        self.rows
            .iter()
            .fold(header, |text, row| text + &line(&|i| row[i].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters_and_wide_adds_some() {
        let mut table = Table::new(&["NAME", "STATE"], &["DETAIL"]);
        table.row(["wést".into(), "Connected".into(), "x".into()]);
        table.row(["north-long".into(), String::new()]);
        assert_eq!(
            table.render(false),
            "NAME         STATE\nwést         Connected\nnorth-long   -\n"
        );
        assert_eq!(
            table.render(true),
            "NAME         STATE       DETAIL\nwést         Connected   x\nnorth-long   -           -\n"
        );
    }
}
