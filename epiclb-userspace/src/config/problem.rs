//! What is wrong with a configuration, where, and what to type instead.
//!
//! Owns: places in the two files, the collector that every rule reports to, and the report as text (with the lines in
//! question) and as plain data. Deliberately does not know: any rule.

use std::{collections::BTreeSet, fmt, ops::Range};

use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

use super::text::Text;

/// How many problems [`Report::render`] prints; the rest is "and N more". Errors come first.
pub const MAX_SHOWN: usize = 20;

/// How many problems a report keeps; more are only counted, so that a file full of nonsense costs no memory.
const MAX_KEPT: usize = 1_000;

/// Lines longer than this (bytes) are not quoted: nobody reads them, and every one of them would be printed whole.
const MAX_QUOTED_LINE: usize = 1_000;

/// Whether the configuration may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It may not.
    Error,
    /// It may, but an operator should look at it.
    Warning,
}

/// One problem, as data; serialises to what `check --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether it keeps the configuration from being used.
    pub severity: Severity,
    /// The file's path as it was given.
    pub file: String,
    /// From 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// From 1, in characters; `None` where the file as a whole is meant.
    pub column: Option<usize>,
    /// For instance `vip[2].rip[0].weight`; indices count from 0. Empty at the top level.
    pub key: String,
    /// The label of the VIP (`MyChart`) or RIP (`MyChart/Srv_1`) the key belongs to, where it has one.
    pub name: Option<String>,
    /// What is wrong, on one line.
    pub message: String,
    /// What would be accepted.
    pub help: Option<String>,
    #[serde(skip)]
    marks: Vec<Mark>,
}

/// A stretch of a file that the printed report underlines; the first of a problem is the problem's own place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    file: File,
    span: Range<usize>,
    label: String,
}

/// Every problem of a configuration, ordered by file and line.
#[derive(Clone, Debug, Default)]
pub struct Report {
    problems: Vec<Problem>,
    /// Boxed, because a report travels as an error.
    texts: Box<[Text; 2]>,
    /// Found, but beyond [`MAX_KEPT`].
    uncounted: usize,
}

impl Report {
    /// Every problem, in the order of the files.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// The problems that keep the configuration from being used.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error)
    }

    /// The problems that don't.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// Nothing to report.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// The report for people: each problem with its lines, at most [`MAX_SHOWN`] of them, then a count. Ends in a
    /// newline unless empty. `colour` adds ANSI colours, for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for problem in self.errors().chain(self.warnings()).take(MAX_SHOWN) {
            out.push_str(&self.render_one(problem, &renderer));
            out.push_str("\n\n");
        }
        if !self.is_empty() {
            out.push_str(&self.summary());
            out.push('\n');
        }
        out
    }

    /// An array with one object per problem.
    pub fn to_json(&self) -> serde_json::Value {
        self.problems
            .iter()
            .map(|problem| serde_json::to_value(problem).expect("strings and numbers always serialise"))
            .collect()
    }

    /// For instance "2 errors, 1 warning".
    fn summary(&self) -> String {
        let count = |number: usize, noun: &str| match number {
            0 => None,
            1 => Some(format!("1 {noun}")),
            n => Some(format!("{n} {noun}s")),
        };
        let counts = [
            count(self.errors().count(), "error"),
            count(self.warnings().count(), "warning"),
            count(self.uncounted, "further problem"),
        ];
        let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        match (self.problems.len() + self.uncounted).saturating_sub(MAX_SHOWN) {
            0 => counts,
            more => format!("and {more} more; {counts}"),
        }
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(problem.message.as_str()));
        if problem.marks.is_empty() {
            let mut origin = Origin::path(problem.file.as_str());
            if let (Some(line), Some(column)) = (problem.line, problem.column) {
                origin = origin.line(line).char_column(column);
            }
            group = group.element(origin);
        }
        // The problem's own file first; another file only if a mark is there.
        let own = problem.marks.first().map(|mark| mark.file);
        for file in own.into_iter().chain([File::Node, File::Services].into_iter().filter(|file| Some(*file) != own)) {
            group = group.elements(self.snippet(problem, file));
        }
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(annotate_snippets::normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }

    /// The marked lines of one file, cut out of it so that a large file costs nothing.
    fn snippet(&self, problem: &Problem, file: File) -> Option<Element<'_>> {
        let text = &self.texts[file as usize];
        let marks = || problem.marks.iter().enumerate().filter(|(_, mark)| mark.file == file);
        let first = marks().map(|(_, mark)| text.line(mark.span.start)).min()?;
        let last = marks().map(|(_, mark)| text.line(mark.span.start)).max()?;
        let window = text.lines(first, last);
        if window.text.lines().any(|line| line.len() > MAX_QUOTED_LINE) {
            let origin = Origin::path(text.path.as_str()).line(first + 1);
            return Some(origin.into());
        }
        let annotations = marks().map(|(index, mark)| {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let span = mark.span.start - window.start..mark.span.end - window.start;
            kind.span(span).label(annotate_snippets::normalize_untrusted_str(&mark.label))
        });
        let snippet = Snippet::<Annotation<'_>>::source(window.text).path(text.path.as_str()).line_start(first + 1);
        Some(snippet.annotations(annotations).into())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum File {
    Node,
    Services,
}

impl File {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Node => "node.toml",
            Self::Services => "services.toml",
        }
    }
}

/// Where something was typed, and what it is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: File,
    /// Bytes of the file's text.
    pub(super) span: Range<usize>,
    /// The key path.
    pub(super) key: String,
    /// The label of the VIP or RIP it belongs to.
    pub(super) name: Option<String>,
}

impl Place {
    fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{} of {name}", self.key),
            None => self.key.clone(),
        }
    }
}

/// What a broken file still tells reliably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Lines (from 0) with a syntax error: what was read there is a guess.
    pub(super) lines: BTreeSet<usize>,
    /// From this byte on the structure itself is a guess; things that seem to be missing may be there after all.
    pub(super) from: usize,
}

impl Default for Damage {
    fn default() -> Self {
        Self { lines: BTreeSet::new(), from: usize::MAX }
    }
}

/// Collects the problems of a run.
#[derive(Debug, Default)]
pub(super) struct Problems {
    drafts: Vec<Draft>,
    uncounted: usize,
    errors: usize,
    /// Takes the words of a problem that is beyond [`MAX_KEPT`].
    spare: Option<Draft>,
}

/// A problem before its lines are counted.
#[derive(Debug)]
pub(super) struct Draft {
    severity: Severity,
    file: File,
    position: Option<(usize, usize)>,
    place: Option<Place>,
    label: Option<String>,
    message: String,
    help: Option<String>,
    others: Vec<(Place, String)>,
    /// A syntax error: reported even though its line is damaged.
    syntax: bool,
    /// Complains of something that isn't there.
    absence: bool,
}

impl Draft {
    /// What would be accepted.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Says something else than the key path at the problem's own place.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    /// A second place to look at.
    pub(super) fn see(&mut self, place: &Place, label: impl Into<String>) -> &mut Self {
        self.others.push((place.clone(), label.into()));
        self
    }

    /// Not to be said of a file whose structure is broken.
    pub(super) fn absence(&mut self) -> &mut Self {
        self.absence = true;
        self
    }

    /// Whether a broken file makes this a guess.
    fn is_doubtful(&self, texts: &[Text; 2], damages: &[Damage; 2]) -> bool {
        let places = self.place.iter().chain(self.others.iter().map(|(place, _)| place));
        !self.syntax
            && places.into_iter().any(|place| {
                let Damage { lines, from } = &damages[place.file as usize];
                place.span.start >= *from
                    || lines.contains(&texts[place.file as usize].line(place.span.start))
                    || (self.absence && *from != usize::MAX)
            })
    }
}

impl Problems {
    /// The configuration may not be used.
    pub(super) fn error(&mut self, place: &Place, message: impl Into<String>) -> &mut Draft {
        self.push(Draft::at(Severity::Error, place, message.into()))
    }

    /// The configuration may be used, but an operator should look at this.
    pub(super) fn warning(&mut self, place: &Place, message: impl Into<String>) -> &mut Draft {
        self.push(Draft::at(Severity::Warning, place, message.into()))
    }

    /// The text is not TOML.
    pub(super) fn syntax(&mut self, place: &Place, message: impl Into<String>) -> &mut Draft {
        let draft = self.error(place, message);
        draft.syntax = true;
        draft
    }

    /// The file is not text, or not there. `position` is line and column, where known.
    pub(super) fn unreadable(
        &mut self,
        file: File,
        position: Option<(usize, usize)>,
        message: impl Into<String>,
    ) -> &mut Draft {
        let place = Place { file, span: 0..0, key: String::new(), name: None };
        self.push(Draft { place: None, position, ..Draft::at(Severity::Error, &place, message.into()) })
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Counts lines, drops what a broken file makes doubtful, and orders by place.
    pub(super) fn into_report(self, texts: [Text; 2], damages: &[Damage; 2]) -> Report {
        let mut drafts = self.drafts;
        drafts.retain(|draft| !draft.is_doubtful(&texts, damages));
        drafts.sort_by_key(|draft| (draft.file, draft.place.as_ref().map(|place| place.span.start)));
        let problems = drafts.into_iter().map(|draft| draft.finish(&texts)).collect();
        Report { problems, texts: Box::new(texts), uncounted: self.uncounted }
    }

    fn push(&mut self, draft: Draft) -> &mut Draft {
        self.errors += usize::from(draft.severity == Severity::Error);
        if self.drafts.len() < MAX_KEPT {
            self.drafts.push(draft);
            self.drafts.last_mut().expect("one was just pushed")
        } else {
            self.uncounted += 1;
            self.spare.insert(draft)
        }
    }
}

impl Draft {
    fn at(severity: Severity, place: &Place, message: String) -> Self {
        Self {
            severity,
            file: place.file,
            position: None,
            place: Some(place.clone()),
            label: None,
            message,
            help: None,
            others: Vec::new(),
            syntax: false,
            absence: false,
        }
    }

    fn finish(self, texts: &[Text; 2]) -> Problem {
        let text = &texts[self.file as usize];
        let position = self.position.or(self.place.as_ref().map(|place| text.position(place.span.start)));
        let own = self.place.iter().map(|place| (place, self.label.clone().unwrap_or_else(|| place.label())));
        let others = self.others.iter().map(|(place, label)| (place, label.clone()));
        let marks = own
            .chain(others)
            .filter(|(place, _)| texts[place.file as usize].content().is_some())
            .map(|(place, label)| Mark {
                file: place.file,
                span: texts[place.file as usize].within_line(&place.span),
                label,
            })
            .collect();
        let (key, name) = self.place.map(|place| (place.key, place.name)).unwrap_or_default();
        Problem {
            severity: self.severity,
            file: text.path.clone(),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            key,
            name,
            message: self.message,
            help: self.help,
            marks,
        }
    }
}

/// Text a user typed, for a message: quoted, control characters escaped, long text cut.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
