//! A reader of Markdown: links, code in back ticks, anchors and tables, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A piece of text and its line, counted from 1.
pub(super) type Piece = (String, usize);

#[derive(Debug, Default)]
pub(super) struct Document {
    /// Destinations of links and images, in HTML too.
    pub(super) links: Vec<Piece>,
    /// Code in back ticks; not that of blocks.
    pub(super) codes: Vec<Piece>,
    /// The names under which GitHub links to headings, and those of HTML.
    pub(super) anchors: BTreeSet<String>,
    pub(super) tables: Vec<Table>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) line: usize,
    /// Of the first row, in lower case.
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) line: usize,
    pub(super) cells: Vec<Cell>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) codes: Vec<String>,
}

impl Table {
    /// The place of a column, by its header.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|header| header == name)
    }
}

impl Document {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most events of a document are of no interest here")]
    pub(super) fn parse(text: &str) -> Self {
        let starts: Vec<usize> =
            [0].into_iter().chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        let line = |range: &Range<usize>| starts.partition_point(|start| *start <= range.start);
        let mut document = Self::default();
        let mut slugs = BTreeMap::new();
        let mut heading: Option<String> = None;
        let mut row: Option<Row> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = line(&range);
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push((dest_url.into_string(), line));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document.anchors.insert(anchor(&heading.take().unwrap_or_default(), &mut slugs));
                }
                Event::Start(Tag::Table(_)) => document.tables.push(Table { line, ..Table::default() }),
                Event::Start(Tag::TableHead | Tag::TableRow) => row = Some(Row { line, cells: Vec::new() }),
                Event::Start(Tag::TableCell) => {
                    if let Some(row) = &mut row {
                        row.cells.push(Cell::default());
                    }
                }
                Event::End(TagEnd::TableHead) => {
                    if let (Some(row), Some(table)) = (row.take(), document.tables.last_mut()) {
                        table.header = row.cells.iter().map(|cell| cell.text.to_lowercase()).collect();
                    }
                }
                Event::End(TagEnd::TableRow) => {
                    if let (Some(row), Some(table)) = (row.take(), document.tables.last_mut()) {
                        table.rows.push(row);
                    }
                }
                Event::Text(text) => add_text(&text, &mut heading, &mut row),
                Event::Code(code) => {
                    add_text(&code, &mut heading, &mut row);
                    if let Some(cell) = row.as_mut().and_then(|row| row.cells.last_mut()) {
                        cell.codes.push(code.to_string());
                    }
                    document.codes.push((code.into_string(), line));
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    document.links.extend(values(&html, &["href", "src", "srcset"]).map(|link| (link, line)));
                    document.anchors.extend(values(&html, &["id", "name"]));
                }
                _ => {}
            }
        }
        document
    }
}

fn add_text(text: &str, heading: &mut Option<String>, row: &mut Option<Row>) {
    if let Some(heading) = heading {
        heading.push_str(text);
    }
    if let Some(cell) = row.as_mut().and_then(|row| row.cells.last_mut()) {
        cell.text.push_str(text);
    }
}

/// GitHub's name of a heading: lower case, without punctuation, spaces as hyphens; a number tells equal ones apart.
fn anchor(heading: &str, seen: &mut BTreeMap<String, usize>) -> String {
    let slug: String = heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect();
    let count = seen.entry(slug.clone()).and_modify(|count| *count += 1).or_insert(0);
    if *count == 0 { slug } else { format!("{slug}-{count}") }
}

/// The values of attributes of a piece of HTML.
fn values<'a>(html: &'a str, names: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    names.iter().flat_map(move |name| {
        let start = format!(" {name}=\"");
        html.match_indices(start.as_str())
            .filter_map(|(at, found)| html[at + found.len()..].split_once('"'))
            .map(|(value, _)| value.to_owned())
            .collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_named_as_github_names_them() {
        let text =
            "# A `serve --x` story: Ärger, 2.0\n## Limits\n## Limits\n### a_b & c\n<a id=\"here\"></a>\n";
        let anchors = Document::parse(text).anchors;
        let expected = ["a-serve---x-story-ärger-20", "limits", "limits-1", "a_b--c", "here"];
        assert_eq!(anchors, expected.into_iter().map(str::to_owned).collect());
    }

    #[test]
    fn links_and_codes_have_their_line_and_blocks_are_left_out() {
        let text =
            "[a](b.md#c)\n\n![i](i.png) `p/q.rs`\n\n```sh\n[x](y) `z`\n```\n<img alt=\"\" src=\"j.png\">\n";
        let document = Document::parse(text);
        assert_eq!(document.links, [("b.md#c".into(), 1), ("i.png".into(), 3), ("j.png".into(), 8)]);
        assert_eq!(document.codes, [("p/q.rs".into(), 3)]);
    }

    #[test]
    fn tables_have_columns_by_header() {
        let text = "| Hop | file |\n|---|---|\n| one | `a.rs`, `b.rs` |\n| two | c |\n";
        let tables = Document::parse(text).tables;
        assert_eq!(tables[0].column("file"), Some(1));
        assert_eq!(tables[0].rows[0].cells[1].codes, ["a.rs", "b.rs"]);
        assert_eq!(tables[0].rows[1].cells[1].text, "c");
        assert_eq!(tables[0].rows[1].line, 4);
    }
}
