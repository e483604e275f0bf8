//! Bytes to text to TOML, with every syntax error and every duplicate key.
//!
//! A syntax error inside one value (a missing quote) spoils that line only: reading goes on behind it, and the other
//! rules still apply to the rest. An error in the structure (a bracket that is never closed) makes everything behind it
//! a guess, so the first one is reported and the rest of the file is left alone.

use std::{net::IpAddr, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Unreadable,
    problem::{Damage, File, Place, Problems, quoted},
    table::Table,
    text::sounds_secret,
};

/// Syntax errors (and as many duplicate keys) that are reported of one file; each costs a walk through the tree. What
/// follows the last is not checked.
const MAX_SYNTAX_ERRORS: usize = 100;

/// A file read as TOML, as far as it goes.
pub(super) struct Document<'t> {
    file: File,
    root: DeTable<'t>,
    pub(super) damage: Damage,
}

/// The bytes as text, without a byte order mark.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, Unreadable> {
    const SAVE_AS: &str = "save it as plain UTF-8 text";
    let refuse = |position, message: String| Err(Unreadable { message, help: SAVE_AS.to_owned(), position });
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse(None, "is UTF-16 text".to_owned());
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return refuse(Some(position(&bytes[..at])), "holds a NUL byte: this is no text file".to_owned());
    }
    match String::from_utf8(bytes) {
        // Windows editors put one; TOML 1.1 says to ignore it.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            refuse(Some(position(&bytes[..at])), format!("is not UTF-8 text: byte 0x{:02x} here", bytes[at]))
        }
    }
}

/// Line and column (from 1) of what follows `before`.
fn position(before: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(before);
    let line = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, line.chars().count() + 1)
}

impl<'t> Document<'t> {
    /// Reads the text and reports what is no TOML in it.
    pub(super) fn parse(file: File, text: &'t str, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { file, root: root.into_inner(), damage: Damage::default() };
        let mut syntax = Vec::new();
        let mut duplicates = 0;
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            if error.message() == "duplicate key" {
                duplicates += 1;
                if duplicates <= MAX_SYNTAX_ERRORS {
                    document.duplicate(text, span, problems);
                }
            } else {
                syntax.push((span, error.message()));
            }
        }
        // The parser reports in two passes; the reader wants one.
        syntax.sort_by_key(|(span, _)| (span.start, span.end));
        document.syntax_errors(text, &syntax, problems);
        document
    }

    /// The top level, for reading.
    pub(super) fn root(&self) -> Table<'_> {
        Table::root(self.file, &self.root)
    }

    fn syntax_errors(&mut self, text: &str, errors: &[(Range<usize>, &str)], problems: &mut Problems) {
        let mut last_value = None;
        for (index, (span, message)) in errors.iter().enumerate() {
            if index == MAX_SYNTAX_ERRORS {
                self.damage.from = span.start;
                return;
            }
            let line = text[..span.start.min(text.len())].matches('\n').count();
            match self.value_around(text, span) {
                // One value, one complaint.
                Some((_, value)) if last_value.as_ref() == Some(&value) => {}
                Some((key, value)) => {
                    self.damage.lines.insert(text[..value.start].matches('\n').count());
                    let typed = &text[value.clone()];
                    let remedy = if sounds_secret(&key) { remedy("x") } else { remedy(typed) };
                    let place = Place { file: self.file, span: value.clone(), key, name: None };
                    problems.syntax(&place, explain(typed, message)).help(remedy);
                    last_value = Some(value);
                }
                None => {
                    self.damage.lines.insert(line);
                    self.damage.from = span.start;
                    let place = Place { file: self.file, span: span.clone(), key: String::new(), name: None };
                    let draft = problems.syntax(&place, format!("this is not TOML: {message}"));
                    draft.label("here").help("the rest of this file has not been checked");
                    if let Some((key, opened)) = self.bracket_around(span) {
                        let opened = Place { file: self.file, span: opened.start..opened.start + 1, key, name: None };
                        draft.see(&opened, "is the bracket opened here closed?");
                    }
                    return;
                }
            }
        }
    }

    /// A key given twice; the parser keeps the first.
    fn duplicate(&self, text: &str, span: Range<usize>, problems: &mut Problems) {
        let key = text.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
        let mut first: Option<(String, Range<usize>)> = None;
        walk(&self.root, &mut String::new(), &mut |path, name, _| {
            let closer = first.as_ref().is_none_or(|(_, found)| found.start < name.span().start);
            if name.get_ref() == key && name.span().start < span.start && closer {
                first = Some((path.to_owned(), name.span()));
            }
        });
        // A table that is opened twice is kept under its last header: look for the first in the text.
        let header = |line: &&str| line.trim().starts_with('[');
        let first = first.or_else(|| {
            let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let line = text[start..].lines().next().filter(header)?.trim();
            let found = text[..start].match_indices(line).map(|(at, _)| at).last()?;
            Some((line.trim_matches(['[', ']']).to_owned(), found..found + line.len()))
        });
        let place = |key: &str, span| Place { file: self.file, span, key: key.to_owned(), name: None };
        let path = first.as_ref().map_or(key, |(path, _)| path);
        let draft = problems.syntax(&place(path, span), format!("{} is given twice", quoted(key)));
        draft.label("given again").help("delete one of the two");
        if let Some((path, span)) = &first {
            draft.see(&place(path, span.clone()), "first given here");
        }
    }

    /// The single-line value an error lies in or at the end of, with its key path.
    fn value_around(&self, text: &str, error: &Range<usize>) -> Option<(String, Range<usize>)> {
        let mut found = None;
        walk(&self.root, &mut String::new(), &mut |path, _, value| {
            let leaves = match value.get_ref() {
                DeValue::Array(items) => items.iter().filter(|item| !item.get_ref().is_array()).collect(),
                _ => vec![value],
            };
            for leaf in leaves {
                let span = leaf.span();
                // Something missing right in front of a value is a matter of the structure.
                let in_front = error.end == span.start && !span.is_empty();
                let touches = span.start <= error.start && error.end <= span.end && !in_front;
                let one_line = text.get(span.clone()).is_some_and(|typed| !typed.contains('\n'));
                if !leaf.get_ref().is_table() && !leaf.get_ref().is_array() && touches && one_line {
                    found = Some((path.to_owned(), span));
                }
            }
        });
        found
    }

    /// The innermost array or inline table an error lies in.
    fn bracket_around(&self, error: &Range<usize>) -> Option<(String, Range<usize>)> {
        let mut found: Option<(String, Range<usize>)> = None;
        walk(&self.root, &mut String::new(), &mut |path, _, value| {
            let span = value.span();
            let bracket = value.get_ref().is_array() || value.get_ref().is_table();
            if bracket && span.start < error.start && error.end <= span.end {
                found = Some((path.to_owned(), span));
            }
        });
        found
    }
}

/// Visits every key with its path and value, outer before inner.
fn walk<'d, 't>(
    table: &'d DeTable<'t>,
    path: &mut String,
    visit: &mut impl FnMut(&str, &'d Spanned<std::borrow::Cow<'t, str>>, &'d Spanned<DeValue<'t>>),
) {
    for (key, value) in table {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.get_ref());
        visit(path, key, value);
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, path, visit),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        let length = path.len();
                        path.push_str(&format!("[{index}]"));
                        walk(inner, path, visit);
                        path.truncate(length);
                    }
                }
            }
            _ => {}
        }
        path.truncate(length);
    }
}

/// What is wrong with a value the parser refused.
fn explain(typed: &str, message: &str) -> String {
    match shape(typed) {
        Shape::Nothing => "there is no value after the `=`".to_owned(),
        Shape::Unclosed => "this text has no closing quote".to_owned(),
        Shape::Bare => "this value needs quotes".to_owned(),
        Shape::Other => format!("this is not TOML: {message}"),
    }
}

fn remedy(typed: &str) -> String {
    match shape(typed) {
        Shape::Nothing => "give a value or delete the line".to_owned(),
        Shape::Unclosed => "close it with the quote it began with".to_owned(),
        Shape::Bare => format!("write {}", quoted(typed)),
        Shape::Other => "numbers are written as 443, text as \"MyChart\", and \\ in text as \\\\".to_owned(),
    }
}

enum Shape {
    Nothing,
    Unclosed,
    Bare,
    Other,
}

fn shape(typed: &str) -> Shape {
    let number = |c: char| c.is_ascii_digit() || matches!(c, '_' | '+' | '.');
    match typed.chars().next() {
        None => Shape::Nothing,
        Some(quote @ ('"' | '\'')) if typed.len() == 1 || !typed.ends_with(quote) => Shape::Unclosed,
        Some('"' | '\'') => Shape::Other,
        Some(_) if typed.parse::<IpAddr>().is_ok() => Shape::Bare,
        Some(_) if typed.trim_start_matches('-').chars().all(number) => Shape::Other,
        Some(_) => Shape::Bare,
    }
}
