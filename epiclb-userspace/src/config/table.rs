//! Reads a TOML table key by key, reporting wrong types on the way and unknown keys at the end.

use std::ops::RangeInclusive;

use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{File, Place, Problems, quoted};

/// A value and where it was typed.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What a key turned out to hold.
#[derive(Clone, Debug)]
pub(super) enum Field<T> {
    /// The key isn't there.
    Absent,
    /// It is, with something that has been reported already.
    Wrong(Place),
    /// It is.
    Typed(At<T>),
}

impl<T> Field<T> {
    /// Where it was typed, right or wrong.
    pub(super) fn place(&self) -> Option<&Place> {
        match self {
            Self::Absent => None,
            Self::Wrong(place) | Self::Typed(At { place, .. }) => Some(place),
        }
    }

    /// The value, if it is a right one.
    pub(super) fn typed(self) -> Option<At<T>> {
        match self {
            Self::Typed(at) => Some(at),
            Self::Absent | Self::Wrong(_) => None,
        }
    }

    /// Reads further; what fails has been reported by `read`.
    pub(super) fn and_then<U>(self, read: impl FnOnce(&At<T>) -> Option<U>) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Wrong(place) => Field::Wrong(place),
            Self::Typed(at) => match read(&at) {
                Some(value) => Field::Typed(At { value, place: at.place }),
                None => Field::Wrong(at.place),
            },
        }
    }

    /// The value, or `default` where the key is absent; nothing where it is wrong.
    pub(super) fn or_default(self, default: T) -> Option<T> {
        match self {
            Self::Absent => Some(default),
            Self::Wrong(_) => None,
            Self::Typed(at) => Some(at.value),
        }
    }
}

/// What a key takes, in words and as an example.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// For instance "an IP address in quotes".
    pub(super) what: &'static str,
    /// For instance `"192.168.85.150"`, as it would be typed.
    pub(super) example: &'static str,
}

/// A table being read.
pub(super) struct Table<'t> {
    entries: &'t DeTable<'t>,
    /// Its header or braces, and its path.
    pub(super) place: Place,
    /// Keys asked for so far: when reading is done, those it may have.
    known: Vec<&'static str>,
}

/// An element of `ports`: numbers and ranges are told apart later.
#[derive(Clone, Debug)]
pub(super) enum Scalar {
    /// Beyond 64 bits it is cut there; no key takes such numbers.
    Integer(i64),
    Text(String),
}

impl<'t> Table<'t> {
    /// The top level of a file.
    pub(super) fn root(file: File, entries: &'t DeTable<'t>) -> Self {
        Self { entries, place: Place { file, span: 0..0, key: String::new(), name: None }, known: Vec::new() }
    }

    /// Names everything read from here on; `name` is a VIP's or RIP's label.
    pub(super) fn set_name(&mut self, name: String) {
        self.place.name = Some(name);
    }

    /// Whether the key is there and holds anything, right or wrong. An empty list is nothing.
    pub(super) fn has(&self, key: &str) -> bool {
        let value = self.entries.get(key);
        value.is_some_and(|value| value.get_ref().as_array().is_none_or(|items| !items.is_empty()))
    }

    /// A key that holds text.
    pub(super) fn string(&mut self, key: &'static str, wanted: Wanted, problems: &mut Problems) -> Field<String> {
        self.read(key, wanted, problems, |value, _| value.as_str().map(str::to_owned))
    }

    /// A key that holds true or false.
    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Problems) -> Field<bool> {
        let wanted = Wanted { what: "true or false, without quotes", example: "true" };
        self.read(key, wanted, problems, |value, _| value.as_bool())
    }

    /// A key that holds a whole number of a range; others are reported.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        wanted: Wanted,
        problems: &mut Problems,
    ) -> Field<i64> {
        self.read(key, wanted, problems, |value, _| value.as_integer().map(integer)).and_then(|at| {
            if range.contains(&at.value) {
                return Some(at.value);
            }
            problems.error(&at.place, format!("`{key}` is {}, out of range", number(at.value))).help(format!(
                "write a number from {} to {}",
                range.start(),
                range.end()
            ));
            None
        })
    }

    /// A key that holds a list of texts. Elements of another type are reported and left out.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        wanted: Wanted,
        problems: &mut Problems,
    ) -> Field<Vec<At<String>>> {
        self.list(key, wanted, problems, |value| value.as_str().map(str::to_owned))
    }

    /// A key that holds a list of numbers and texts. Elements of another type are reported and left out.
    pub(super) fn scalars(
        &mut self,
        key: &'static str,
        wanted: Wanted,
        problems: &mut Problems,
    ) -> Field<Vec<At<Scalar>>> {
        self.list(key, wanted, problems, |value| match value {
            DeValue::Integer(typed) => Some(Scalar::Integer(integer(typed))),
            DeValue::String(text) => Some(Scalar::Text(text.clone().into_owned())),
            _ => None,
        })
    }

    /// A key that holds a table, `[key]` or `key = { … }`.
    pub(super) fn table(&mut self, key: &'static str, wanted: Wanted, problems: &mut Problems) -> Field<Table<'t>> {
        self.read(key, wanted, problems, |value, place| {
            value.as_table().map(|entries| Table { entries, place: place.clone(), known: Vec::new() })
        })
    }

    /// A key that is repeated as `[[key]]`. `header` is how it is typed, for instance `[[vip.rip]]`.
    pub(super) fn tables(&mut self, key: &'static str, header: &str, problems: &mut Problems) -> Vec<Table<'t>> {
        self.known.push(key);
        let Some(value) = self.entries.get(key) else { return Vec::new() };
        let place = self.place_of(key, value.span());
        let items: &DeArray<'t> = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::Table(_) => {
                problems
                    .error(&place, format!("`{key}` is a single table, but there may be several"))
                    .help(format!("write {header}, with double brackets"));
                return Vec::new();
            }
            other => {
                problems
                    .error(&place, format!("`{key}` is {}, but must be a table", kind(other)))
                    .help(format!("write {header} on a line of its own, and its keys below"));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mut place = self.place_of(key, item.span());
            place.key = format!("{}[{index}]", place.key);
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(Table { entries, place, known: Vec::new() }),
                other => {
                    problems
                        .error(&place, format!("an element of `{key}` is {}, but must be a table", kind(other)))
                        .help(format!("write {header} on a line of its own, and its keys below"));
                }
            }
        }
        tables
    }

    /// Reports every key that nobody asked for. `hints` says where some of them belong instead.
    pub(super) fn finish(self, hints: &[(&str, &str)], problems: &mut Problems) {
        for (key, _) in self.entries {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = self.place_of(name, key.span());
            let known = self.known.join(", ");
            let help = match (hints.iter().find(|(hint, _)| *hint == name), did_you_mean(name, &self.known)) {
                (Some((_, hint)), _) => (*hint).to_owned(),
                (None, Some(similar)) => format!("did you mean `{similar}`? Known here: {known}"),
                (None, None) => format!("known here: {known}"),
            };
            problems.error(&place, format!("unknown key {}", quoted(name))).help(help);
        }
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        wanted: Wanted,
        problems: &mut Problems,
        read: impl FnOnce(&'t DeValue<'t>, &Place) -> Option<T>,
    ) -> Field<T> {
        self.known.push(key);
        let Some(value) = self.entries.get(key) else { return Field::Absent };
        let place = self.place_of(key, value.span());
        if let Some(value) = read(value.get_ref(), &place) {
            return Field::Typed(At { value, place });
        }
        problems
            .error(&place, format!("`{key}` is {}, but must be {}", kind(value.get_ref()), wanted.what))
            .help(format!("write {key} = {}", wanted.example));
        Field::Wrong(place)
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        wanted: Wanted,
        problems: &mut Problems,
        read: impl Fn(&DeValue<'t>) -> Option<T>,
    ) -> Field<Vec<At<T>>> {
        let items = self.read(key, wanted, problems, |value, _| value.as_array());
        items.and_then(|at| {
            let mut list = Vec::new();
            for (index, item) in at.value.iter().enumerate() {
                let place = Place { span: item.span(), key: format!("{}[{index}]", at.place.key), ..at.place.clone() };
                match read(item.get_ref()) {
                    Some(value) => list.push(At { value, place }),
                    None => {
                        let kind = kind(item.get_ref());
                        problems
                            .error(&place, format!("this element of `{key}` is {kind}; it must be {}", wanted.what))
                            .help(format!("write {key} = {}", wanted.example));
                    }
                }
            }
            // Nothing left of something: that has been said, and "empty" would be wrong.
            (at.value.is_empty() || !list.is_empty()).then_some(list)
        })
    }

    fn place_of(&self, key: &str, span: std::ops::Range<usize>) -> Place {
        let Place { file, key: path, name, .. } = &self.place;
        let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
        let key = if path.is_empty() { shown } else { format!("{path}.{shown}") };
        Place { file: *file, span, key, name: name.clone() }
    }
}

/// The candidate that is typed most like `typed`, if one is near.
pub(super) fn did_you_mean<'c>(typed: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // Beyond this it is no typo, and the comparison would cost time.
    const LONGEST: usize = 64;
    if typed.len() > LONGEST {
        return None;
    }
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|candidate| {
            // Jaro-Winkler likes long words with a common start; two letters swapped in a short one need the other.
            let slip = if strsim::osa_distance(&typed, candidate) <= 1 { 0.9 } else { 0.0 };
            (strsim::jaro_winkler(&typed, candidate).max(slip), *candidate)
        })
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// A TOML integer, cut at 64 bits.
fn integer(typed: &toml::de::DeInteger<'_>) -> i64 {
    let negative = typed.as_str().starts_with('-');
    i64::from_str_radix(typed.as_str(), typed.radix()).unwrap_or(if negative { i64::MIN } else { i64::MAX })
}

/// The number as it was typed, unless it was cut.
pub(super) fn number(value: i64) -> String {
    match value {
        i64::MIN => "far below zero".to_owned(),
        i64::MAX => "more than 64 bits hold".to_owned(),
        value => value.to_string(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text in quotes",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
