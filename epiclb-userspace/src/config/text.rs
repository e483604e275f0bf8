//! A file's text as a report quotes it: lines, columns, and no secrets.

use std::ops::Range;

/// A file's text as the report shows it: values of keys that look like secrets are masked.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub(super) path: String,
    content: Option<String>,
    /// The same bytes with secrets masked; every character keeps its length.
    shown: String,
    /// Where each line starts.
    starts: Vec<usize>,
}

/// Some whole lines of a text.
pub(super) struct Window<'t> {
    pub(super) start: usize,
    pub(super) text: &'t str,
}

impl Text {
    pub(super) fn new(path: String, content: String) -> Self {
        let starts = std::iter::once(0).chain(content.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, shown: mask_secrets(&content), content: Some(content), starts }
    }

    /// A file that could not be read.
    pub(super) fn absent(path: String) -> Self {
        Self { path, content: None, shown: String::new(), starts: vec![0] }
    }

    pub(super) fn content(&self) -> Option<&str> {
        self.content.as_deref()
    }

    /// The line (from 0) a byte is on.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let before = self.shown.get(self.starts[line]..offset).unwrap_or_default();
        (line + 1, before.chars().count() + 1)
    }

    /// The span, cut at the end of its first line and at the text's end, on whole characters.
    pub(super) fn within_line(&self, span: &Range<usize>) -> Range<usize> {
        let boundary = |at: usize| (0..=at.min(self.shown.len())).rev().find(|at| self.shown.is_char_boundary(*at));
        let start = boundary(span.start).unwrap_or(0);
        let line = self.lines(self.line(start), self.line(start));
        let line_end = line.start + line.text.trim_end_matches(['\r', '\n']).len();
        let end = boundary(span.end).unwrap_or(0).min(line_end).max(start);
        start..end
    }

    /// Lines `first..=last` (from 0), with their newlines.
    pub(super) fn lines(&self, first: usize, last: usize) -> Window<'_> {
        let start = self.starts.get(first).copied().unwrap_or(self.shown.len());
        let end = self.starts.get(last + 1).copied().unwrap_or(self.shown.len());
        Window { start, text: &self.shown[start..end] }
    }
}

/// Whether a key's name says that its value is nobody's business. No key of epiclb is one today, but a secret may have
/// been put here by mistake, and a report travels further than the file.
pub(super) fn sounds_secret(key: &str) -> bool {
    secret_word(&key.to_ascii_lowercase()).is_some()
}

fn secret_word(lower: &str) -> Option<usize> {
    const WORDS: [&str; 6] = ["secret", "passw", "passphrase", "token", "private", "psk"];
    WORDS.iter().filter_map(|word| lower.find(word)).min()
}

/// Masks what follows the `=` of every key that sounds secret. Works on lines, so that a file that is no valid TOML
/// keeps its secrets too. A value that goes on over several lines is masked until its triple quotes close, or until a
/// line that is plainly something else: empty, a comment, a header, another key.
fn mask_secrets(text: &str) -> String {
    #[derive(Clone, Copy)]
    enum Value {
        Done,
        Open,
        Quoted(&'static str),
    }
    let mut out = String::with_capacity(text.len());
    let mut value = Value::Done;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let key = line.split(['"', '\'']).next().is_some_and(|before| before.contains('='));
        let header = trimmed.starts_with('[') && trimmed.ends_with(']') && !trimmed.contains(['"', '\'', ',']);
        if matches!(value, Value::Open) && (trimmed.is_empty() || trimmed.starts_with('#') || key || header) {
            value = Value::Done;
        }
        let lower = line.to_ascii_lowercase();
        let equals = secret_word(&lower).and_then(|word| Some(word + lower[word..].find('=')? + 1));
        let visible = match (value, equals) {
            (Value::Quoted(quotes), _) => {
                if line.contains(quotes) {
                    value = Value::Done;
                }
                0
            }
            (Value::Open, _) => 0,
            (Value::Done, Some(equals)) => {
                let quotes = ["\"\"\"", "'''"].into_iter().find(|quotes| line[equals..].matches(quotes).count() == 1);
                value = quotes.map_or(Value::Open, Value::Quoted);
                equals
            }
            (Value::Done, None) => line.len(),
        };
        let (shown, hidden) = line.split_at(visible);
        out.push_str(shown);
        out.extend(hidden.chars().map(|c| match (c, c.len_utf8()) {
            ('\r' | '\n' | ' ' | '\t', _) => c,
            (_, 1) => '*',
            (_, 2) => '·',
            (_, 3) => '•',
            _ => '🔒',
        }));
    }
    out
}
