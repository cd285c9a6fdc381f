//! Rows in columns, a row a line, for eyes and for `awk` alike.

use std::fmt::Display;

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::failure::Failure;
use super::output::{Output, one_line};

/// A column's text and how it looks on a terminal.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl Display) -> Self {
        Self::styled(text, Style::new())
    }

    pub(super) fn styled(text: impl Display, style: Style) -> Self {
        let text = one_line(&text.to_string());
        Self {
            text: if text.is_empty() {
                "-".to_owned()
            } else {
                text
            },
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// Rows that are printed in pages: a page may widen a column, and never narrows one.
pub(super) struct Table<const N: usize> {
    widths: [usize; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [&str; N]) -> Self {
        let style = Style::new().bold();
        Self {
            widths: [0; N],
            rows: vec![header.map(|name| Cell::styled(name, style))],
        }
    }

    pub(super) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Prints the rows that are there, and forgets them.
    pub(super) fn print(&mut self, out: &mut Output) -> Result<(), Failure> {
        for row in &self.rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        for row in self.rows.drain(..) {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(self.widths).enumerate() {
                line.push_str(&out.styled(cell.style, &cell.text));
                if index + 1 < N {
                    line.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
                }
            }
            out.line(line)?;
        }
        Ok(())
    }
}
